"""Report of a classifier: mistakes, confusion matrix, calibration, and metrics of each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darkroom.callbacks.plotting.bars import reliability_diagram
from darkroom.report.gallery import Gallery, Item
from darkroom.report.markup import Html, element, folded, paragraph
from darkroom.report.outputs import Outputs, figures
from darkroom.report.page import Section
from darkroom.report.samples import address, kept_samples, read_image, sample_titles, select, show
from darkroom.report.table import Row, Table
from darkroom.report.tasks.confusions import show_confusion
from darkroom.runtime.records.results import Results, image_path
from darkroom.runtime.records.tables import numbers

_GALLERY = "images"
_CONFIDENT = 24  # mistakes of the group of the most confident ones


@dataclass(frozen=True)
class Predictions:
    """Predictions of the test, in the order of samples.

    Args:
        sample: int (N,).
        truth, predicted: int (N,), classes.
        probability: float (N,), of the predicted class.
        loss: float (N,).
    """

    sample: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    loss: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Mask of correct predictions, bool (N,)."""
        return self.truth == self.predicted


@dataclass(frozen=True)
class Calibration:
    """Accuracy by confidence (Guo et al. 2017, "On Calibration of Modern Neural Networks").

    Args:
        confidence: mean in each bin, float (bins,); nan for an empty bin.
        accuracy: fraction of correct predictions in each bin; nan for an empty bin.
        counts: int (bins,).
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray

    @property
    def expected_error(self) -> float:
        """Mean distance of accuracy and confidence, weighted by the number of predictions (Guo et al. 2017, eq. 3)."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float((gaps * self.counts).sum() / max(1, self.counts.sum()))

    @property
    def largest_error(self) -> float:
        """Largest distance of accuracy and confidence (Guo et al. 2017, eq. 4)."""
        return float(np.nan_to_num(np.abs(self.accuracy - self.confidence)).max(initial=0.0))


def calibrate(probability: np.ndarray, right: np.ndarray, bins: int = 15) -> Calibration:
    """Compute accuracy and confidence in bins of equal width, ((m - 1) / bins, m / bins].

    Args:
        probability: float (N,), of the predicted class.
        right: bool (N,).
        bins: number of bins; 15 is that of Guo et al. 2017.
    """
    index = np.clip(np.ceil(probability * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, probability, bins) / counts
        accuracy = np.bincount(index, right, bins) / counts
    return Calibration(confidence, accuracy, counts)


def read_predictions(results: Results) -> Predictions:
    """Return the predictions of test results.

    Raises:
        KeyError, ValueError: a column is missing or has a cell without a number.
    """
    table = results.tables["samples"]
    sample, truth, predicted = (numbers(table[name]).astype(int) for name in ("sample", "truth", "predicted"))
    return Predictions(sample, truth, predicted, numbers(table["probability"]), numbers(table["loss"]))


def count_confusions(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the samples of each pair of a true and a predicted class: int (K, K), with the truth along the rows."""
    pairs = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def sections(results: Results, outputs: Outputs) -> list[Section]:
    """Return the sections of a classifier, failures first."""
    predictions, names = read_predictions(results), results.summary.class_names
    gallery = _gallery(results, predictions)
    counts = count_confusions(predictions.truth, predictions.predicted, len(names))
    wrong = int((~predictions.right).sum())
    lead = f"{wrong:,} of {len(predictions.truth):,} test images are classified wrongly. The highest loss comes first."
    return [
        Section("failures", "Mistakes", [gallery.html() if gallery.items else _no_images()], lead),
        Section(
            "confusion",
            "Confusion matrix",
            show_confusion(counts, names, outputs, gallery, _pair, "images"),
            "A number leads to its images above.",
        ),
        Section("classes", "Classes", [outputs.table(_class_table(predictions, counts, names, gallery))]),
        _calibration_section(predictions, outputs),
        Section("samples", "All test images", [outputs.table(_sample_table(results, predictions))]),
    ]


def _no_images() -> Html:
    return paragraph("The test kept no images.", class_="note")


def _pair(truth: int, predicted: int) -> str:
    return f"t{truth}-p{predicted}"


def _order(predictions: Predictions) -> np.ndarray:
    """Return the rows by descending loss, mistakes first."""
    loss = np.nan_to_num(predictions.loss, nan=np.inf)
    return np.lexsort((-loss, predictions.right))


def _gallery(results: Results, predictions: Predictions) -> Gallery:
    kept, names, titles = kept_samples(results), results.summary.class_names, sample_titles(results)
    wrong = np.flatnonzero(~predictions.right)
    confident = set(wrong[np.argsort(-predictions.probability[wrong], kind="stable")][:_CONFIDENT].tolist())
    rows: dict[int, int] = {}
    keys: dict[int, list[str]] = {}
    for row in _order(predictions).tolist():
        sample = int(predictions.sample[row])
        if sample in kept:
            truth, predicted = int(predictions.truth[row]), int(predictions.predicted[row])
            words = [f"t{truth}", f"p{predicted}", _pair(truth, predicted)]
            words.append("right" if truth == predicted else "wrong")
            rows[sample], keys[sample] = row, words + (["confident"] if row in confident else [])
    groups = {"wrong": "mistakes", "confident": "most confident mistakes", "right": "right"}
    gallery = Gallery(_GALLERY, groups)
    for sample in select(keys):
        row = rows[sample]
        prediction = f"predicted {names[predictions.predicted[row]]} ({predictions.probability[row]:.2f})"
        text = f"{names[predictions.truth[row]]}, {prediction}"
        image = show(read_image(image_path(results.folder, sample)))
        gallery.items.append(Item(titles[row], text, [image], frozenset(keys[sample]), address(results, sample)))
    return gallery


def _class_table(predictions: Predictions, counts: np.ndarray, names: Sequence[str], gallery: Gallery) -> Table:
    hits, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    known = gallery.counts
    rows: list[Row] = []
    for label, name in enumerate(names):
        recall, precision = _ratio(hits[label], truth[label]), _ratio(hits[label], predicted[label])
        f1 = _ratio(2 * hits[label], truth[label] + predicted[label])
        confidence = predictions.probability[predictions.predicted == label]
        rows.append(
            [
                name,
                gallery.cell(int(truth[label]), f"t{label}", f"true class {name}", known),
                gallery.cell(int(predicted[label]), f"p{label}", f"predicted class {name}", known),
                recall,
                precision,
                f1,
                float(confidence.mean()) if len(confidence) else None,
            ]
        )
    columns = ("class", "images", "predicted", "accuracy (recall)", "precision", "F1", "mean confidence")
    return Table("classes", columns, rows, "Metrics of each class.")


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _calibration_section(predictions: Predictions, outputs: Outputs) -> Section:
    calibration = calibrate(predictions.probability, predictions.right)
    plot = reliability_diagram(calibration.confidence, calibration.accuracy, calibration.counts, width=outputs.width)
    bins = len(calibration.counts)
    rows = [
        [f"{index / bins:.2f} to {(index + 1) / bins:.2f}", int(count), _finite(confidence), _finite(accuracy)]
        for index, (count, confidence, accuracy) in enumerate(
            zip(calibration.counts, calibration.confidence, calibration.accuracy, strict=True)
        )
    ]
    error = element("b", f"{calibration.expected_error:.4g}")
    text = paragraph(
        "The expected calibration error is ",
        error,
        f" with {bins} bins, the largest error of a bin is {calibration.largest_error:.4g} (Guo et al. 2017, "
        "On Calibration of Modern Neural Networks). Points below the diagonal are overconfident.",
    )
    columns = ("confidence", "images", "mean confidence", "accuracy")
    return Section(
        "calibration",
        "Calibration",
        [
            text,
            figures(outputs.plot(plot, "reliability", "Accuracy by confidence of the prediction.")),
            folded("Bins", outputs.table(Table("calibration", columns, rows))),
        ],
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _sample_table(results: Results, predictions: Predictions) -> Table:
    names, titles = results.summary.class_names, sample_titles(results)
    rows = [
        [
            titles[row],
            names[predictions.truth[row]],
            names[predictions.predicted[row]],
            float(predictions.probability[row]),
            float(predictions.loss[row]),
        ]
        for row in _order(predictions).tolist()
    ]
    columns = ("image", "true class", "predicted class", "probability", "loss")
    return Table("samples", columns, rows, "Test images, mistakes with the highest loss first.")
