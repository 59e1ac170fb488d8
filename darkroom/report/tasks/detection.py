"""Report of a detector: worst images, kinds of errors, precision and recall, and the confusion matrix with background."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from darkroom.callbacks.plotting.bars import bar_chart
from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.drawing import Plot
from darkroom.report.gallery import Gallery
from darkroom.report.markup import element, paragraph
from darkroom.report.outputs import Outputs, figures
from darkroom.report.page import Section
from darkroom.report.samples import sample_titles
from darkroom.report.table import Row, Table
from darkroom.report.tasks.confusions import show_confusion
from darkroom.report.tasks.detection_errors import FOREGROUND, KINDS, Errors, gains
from darkroom.report.tasks.detection_images import Shot, crop_gallery, image_gallery
from darkroom.report.tasks.matching import (
    Curve,
    Found,
    Matches,
    class_curves,
    confusion,
    curve_of_all,
    match,
    mean_average_precision,
    read_found,
)
from darkroom.runtime.records.results import Results
from darkroom.runtime.records.tables import numbers

_STRICT = 0.75  # second IoU of the precision-recall curves
_MOST_CURVES = 7  # classes in one plot, those with the lowest AP


@dataclass(frozen=True)
class Analysis:
    """Everything that the sections show.

    Args:
        found: detections and objects.
        curves: precision and recall at an IoU of .5, by label.
        strict: the same at .75.
        matches: of detections and objects at an IoU of .5.
        threshold: score with the highest F1 of all classes together; 0 without detections.
        best_f1: that F1.
        errors: kinds of errors.
        gains: AP50 that a model without a kind of errors would have more.
    """

    found: Found
    curves: Mapping[int, Curve]
    strict: Mapping[int, Curve]
    matches: Matches
    threshold: float
    best_f1: float
    errors: Errors
    gains: Mapping[str, float]

    @property
    def above(self) -> np.ndarray:
        """Mask of the detections with a score of at least the threshold, bool (M,)."""
        return self.found.detections.scores >= self.threshold


def analyse(found: Found) -> Analysis:
    """Match, count and name everything."""
    matches = match(found, FOREGROUND)
    threshold, f1 = curve_of_all(found, matches).best
    errors, gained = gains(found)
    strict = class_curves(found, match(found, _STRICT))
    threshold = 0.0 if np.isnan(threshold) else threshold
    return Analysis(found, class_curves(found, matches), strict, matches, threshold, f1, errors, gained)


def sections(results: Results, outputs: Outputs) -> list[Section]:
    """Return the sections of a detector, failures first."""
    analysis = analyse(read_found(results))
    counts, truth_of, seen_as = confusion(analysis.found, analysis.threshold, FOREGROUND)
    shot = Shot(results, analysis.found, analysis.errors, analysis.matches, analysis.threshold, truth_of, seen_as)
    gallery, crops = image_gallery(shot), crop_gallery(shot)
    names = results.summary.class_names
    none = paragraph("The test kept no images.", class_="note")
    threshold = f"at the score threshold with the best F1, {analysis.threshold:.3g}"
    return [
        Section(
            "failures",
            "Worst images",
            [gallery.html() if gallery.items else none],
            f"Most errors come first, {threshold}. Red: false, dashed white: missed, blue: right.",
        ),
        Section(
            "crops",
            "False and missed objects",
            [crops.html() if crops.items else none],
            "False detections with the highest scores and the largest missed objects.",
        ),
        _error_section(analysis, outputs, crops),
        _curve_section(analysis, outputs, gallery),
        _threshold_section(analysis, outputs),
        Section(
            "confusion",
            "Confusion matrix",
            show_confusion(
                counts,
                ["background", *names],
                outputs,
                gallery,
                lambda i, j: f"t{i}-p{j}",
                "objects",
                ["missed", *names],
            ),
            f"Matched at an IoU of .5, whatever the class, {threshold}. The first row has detections without an object, "
            "the first column objects without a detection.",
        ),
        _sample_section(results, shot, outputs),
    ]


def _error_section(analysis: Analysis, outputs: Outputs, crops: Gallery) -> Section:
    known, everything, above = crops.counts, analysis.errors.counts(), analysis.errors.counts(analysis.above)
    rows: list[Row] = []
    for kind, meaning in KINDS.items():
        cell = crops.cell(above[kind], kind, f"{kind} errors", known)
        rows.append([kind, cell, everything[kind], analysis.gains[kind], meaning])
    columns = ("kind", "at the threshold", "at any score", "AP50 gained without it", "definition")
    caption = (
        "Kinds of errors of TIDE (Bolya et al. 2020), with a foreground IoU of .5 and a background IoU of .1. "
        "The gain in AP50 counts detections at any score."
    )
    table = outputs.table(Table("errors", columns, rows, caption))
    bars = bar_chart(
        list(KINDS),
        {"gain": [analysis.gains[kind] for kind in KINDS]},
        axes=("", "AP50 gained without it"),
        horizontal=True,
        width=outputs.width,
    )
    return Section(
        "errors",
        "Kinds of errors",
        [table, figures(outputs.plot(bars, "errors", "AP50 that the model would gain without a kind of errors."))],
        f"AP50 is {mean_average_precision(analysis.curves):.4g}. A number leads to crops of these errors.",
    )


def _curve_section(analysis: Analysis, outputs: Outputs, gallery: Gallery) -> Section:
    names, known = analysis.found.class_names, gallery.counts
    rows: list[Row] = []
    for label, curve in analysis.curves.items():
        name = names[label - 1]
        above = int(np.searchsorted(-curve.scores, -analysis.threshold, side="right"))
        precision, recall = (float(x[above - 1]) if above else None for x in (curve.precision, curve.recall))
        rows.append(
            [
                gallery.cell(name, f"t{label}", f"with {name}", known),
                curve.objects,
                len(curve.scores),
                curve.average_precision,
                analysis.strict[label].average_precision,
                precision,
                recall if curve.objects else None,
                *(curve.best if curve.objects else (None, None)),
            ]
        )
    columns = (
        *("class", "objects", "detections", "AP50", "AP75", "precision", "recall"),
        *("best threshold", "best F1"),
    )
    caption = f"Precision and recall at a score of at least {analysis.threshold:.3g} and an IoU of .5."
    plots = [
        outputs.plot(
            _plot_curves(curves_of, names, outputs.width),
            f"precision-recall-{name}",
            f"Precision by recall at an IoU of {iou}.",
        )
        for curves_of, name, iou in ((analysis.curves, "50", ".5"), (analysis.strict, "75", ".75"))
    ]
    blocks = [outputs.table(Table("classes", columns, rows, caption)), figures(*plots)]
    if sum(curve.objects > 0 for curve in analysis.curves.values()) > _MOST_CURVES:
        blocks.append(paragraph(f"The plots have the {_MOST_CURVES} classes with the lowest AP.", class_="note"))
    return Section(
        "precision",
        "Precision and recall",
        blocks,
        "Average precision is the mean precision at 101 recalls, as COCO defines it.",
    )


def _plot_curves(found: Mapping[int, Curve], names: Sequence[str], width: float) -> Plot:
    some = sorted((curve.average_precision, label) for label, curve in found.items() if curve.objects)
    recalls = np.linspace(0, 1, 101)
    series, labels = [], []
    if len(some) > 1:
        series.append(np.column_stack([recalls, np.mean([found[label].at_recalls for _, label in some], 0)]))
        labels.append("mean")
    for _, label in some[:_MOST_CURVES]:
        series.append(np.column_stack([recalls, found[label].at_recalls]))
        labels.append(names[label - 1])
    return curves(series, labels, axes=("recall (0 to 1)", "precision (0 to 1)"), width=width)


def _threshold_section(analysis: Analysis, outputs: Outputs) -> Section:
    curve = curve_of_all(analysis.found, analysis.matches)
    if not len(curve.scores) or not curve.objects:
        return Section("threshold", "Score threshold", [paragraph("There are no detections to compute F1 from.")])
    step = max(1, len(curve.scores) // 300)
    points = {"F1": curve.f1, "precision": curve.precision, "recall": curve.recall}
    plot = curves(
        [np.column_stack([curve.scores, values])[::step] for values in points.values()],
        list(points),
        axes=("score threshold", "value (0 to 1)"),
        width=outputs.width,
    )
    text = paragraph(
        "The suggested threshold is ",
        element("b", f"{analysis.threshold:.3g}"),
        f": the F1 of all classes together, {analysis.best_f1:.4g}, is highest there, at an IoU of .5. "
        "These are the test images; choose the threshold of a published result on validation images.",
    )
    caption = "F1, precision and recall of the detections with at least a score."
    return Section("threshold", "Score threshold", [text, figures(outputs.plot(plot, "f1-by-threshold", caption))])


def _sample_section(results: Results, shot: Shot, outputs: Outputs) -> Section:
    table = results.tables["samples"]
    titles, samples = sample_titles(results), numbers(table["sample"]).astype(int)
    false, missed = shot.false_by_sample, shot.missed_by_sample
    objects = dict(zip(samples.tolist(), numbers(table["objects"]).astype(int).tolist(), strict=True))
    title_of = dict(zip(samples.tolist(), titles, strict=True))
    order = sorted(title_of, key=lambda sample: -false[sample] - missed[sample])
    rows: list[Row] = [[title_of[sample], objects[sample], false[sample], missed[sample]] for sample in order]
    columns = ("image", "objects", "false detections", "missed objects")
    caption = f"Test images, most errors first, at a score of at least {shot.threshold:.3g} and an IoU of .5."
    return Section("samples", "All test images", [outputs.table(Table("samples", columns, rows, caption))])
