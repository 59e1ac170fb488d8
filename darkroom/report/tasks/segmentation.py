"""Report of a segmentation: worst images, confusion matrix, IoU by class, by class frequency and by size of objects."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from darkroom.callbacks.plotting.bars import bar_chart
from darkroom.callbacks.plotting.curves import set_log
from darkroom.callbacks.plotting.drawing import Plot
from darkroom.callbacks.plotting.style import COLOURS, class_palette, label_axes, new_axes, styled
from darkroom.report.gallery import Gallery, Item
from darkroom.report.markup import Html, element, paragraph
from darkroom.report.outputs import Outputs, figures
from darkroom.report.page import Section
from darkroom.report.samples import (
    address,
    error_map,
    kept_samples,
    overlay,
    read_ids,
    read_image,
    sample_titles,
    select,
    show,
)
from darkroom.report.table import Row, Table
from darkroom.report.tasks.classification import count_confusions
from darkroom.report.tasks.confusions import show_confusion
from darkroom.runtime.records.results import Results, image_path
from darkroom.runtime.records.tables import numbers

_GALLERY = "images"
_MOST = 80  # samples of the gallery, each with four images
_CANDIDATES = 200  # kept samples whose maps are read, besides the worst ones of each class
_PAIR = 0.002  # fraction of an image's pixels from which a confusion is worth showing the image
_SIDES = (16, 32, 64, 128)  # pixels; limits of the sizes of objects, as sides of squares of their area


def sections(results: Results, outputs: Outputs) -> list[Section]:
    """Return the sections of a segmentation, failures first."""
    names = results.summary.class_names
    table = results.tables["samples"]
    score = numbers(table["mIoU"])
    gallery = _gallery(results, score)
    confusion = read_confusion(results)
    lead = "Images with the lowest mIoU come first. In the error map, wrong pixels are red and ignored ones grey."
    found = [
        Section(
            "failures",
            "Worst images",
            [_legend(names), gallery.html()]
            if gallery.items
            else [paragraph("The test kept no images.", class_="note")],
            lead,
        )
    ]
    if confusion is not None:
        found += [
            _class_section(confusion, names, outputs, gallery),
            Section(
                "confusion",
                "Confusion matrix",
                show_confusion(confusion, names, outputs, gallery, _pair, "pixels"),
                "A number leads to images with this confusion.",
            ),
        ]
    if "objects" in results.tables:
        found.append(_size_section(results, outputs, gallery))
    titles = sample_titles(results)
    accuracy = numbers(table["pixel_accuracy"])
    rows = [[titles[row], float(score[row]), float(accuracy[row])] for row in _order(score).tolist()]
    samples = Table("samples", ("image", "mIoU", "pixel accuracy"), rows, "Test images, the lowest mIoU first.")
    return [*found, Section("samples", "All test images", [outputs.table(samples)])]


def _legend(names: Sequence[str]) -> Html:
    """Return the colours of the classes, without the background."""
    colours, background = class_palette(len(names)).tolist(), find_background(names)
    entries = [
        element("li", element("i", style=f"background:rgb({red} {green} {blue})"), name)
        for index, (name, (red, green, blue)) in enumerate(zip(names, colours[: len(names)], strict=True))
        if index != background
    ]
    return element("ul", *entries, class_="legend")


def read_confusion(results: Results) -> np.ndarray | None:
    """Return the number of pixels of each true and predicted class, int (K, K), truth along the rows; None without a table.

    Raises:
        ValueError: the table has another number of rows than of columns.
    """
    table = results.tables.get("confusion")
    if table is None:
        return None
    columns = [numbers(table[name]) for name in table if name != "truth"]
    counts = np.stack(columns, 1).astype(np.int64)
    if counts.shape[0] != counts.shape[1] or len(counts) != len(results.summary.class_names):
        raise ValueError(f"confusion.csv has {counts.shape[0]} rows and {counts.shape[1]} columns of counts")
    return counts


def _pair(truth: int, predicted: int) -> str:
    return f"t{truth}-p{predicted}"


def _order(score: np.ndarray) -> np.ndarray:
    """Return the rows by ascending score; images without one are last."""
    return np.argsort(np.nan_to_num(score, nan=np.inf), kind="stable")


def _candidates(results: Results, score: np.ndarray) -> list[tuple[int, int]]:
    """Return row and sample of those kept samples whose maps are read, worst first."""
    table = results.tables["samples"]
    samples, kept = numbers(table["sample"]).astype(int), kept_samples(results)
    rows = [row for row in _order(score).tolist() if samples[row] in kept]
    chosen = set(rows[:_CANDIDATES])
    for name in results.summary.class_names:
        column = numbers(table.get(f"IoU/{name}", ()))
        if len(column):
            ordered = [row for row in _order(column).tolist() if samples[row] in kept and np.isfinite(column[row])]
            chosen.update(ordered[:3])
    return [(row, int(samples[row])) for row in rows if row in chosen]


def _gallery(results: Results, score: np.ndarray) -> Gallery:
    k, titles = len(results.summary.class_names), sample_titles(results)
    small = _missed_objects(results)
    rows, keys = {}, {}
    for row, sample in _candidates(results, score):
        truth, prediction = (read_ids(image_path(results.folder, sample, kind)) for kind in ("truth", "prediction"))
        valid = (truth < k) & (prediction < k)
        counts = count_confusions(truth[valid].astype(int), prediction[valid].astype(int), k)
        pairs = np.argwhere(counts >= max(1, _PAIR * truth.size)).tolist()
        classes = [f"t{label}" for label in np.flatnonzero(counts.sum(1)).tolist()]
        rows[sample] = row
        keys[sample] = [*classes, *(_pair(i, j) for i, j in pairs), *small.get(sample, ())]
    gallery, background = Gallery(_GALLERY), find_background(results.summary.class_names)
    for sample in select(keys, _MOST):
        image = read_image(image_path(results.folder, sample))
        truth, prediction = (
            read_ids(image_path(results.folder, sample, kind), image.shape[:2]) for kind in ("truth", "prediction")
        )
        images = [
            show(image, "image"),
            show(overlay(image, truth, k, background), "truth"),
            show(overlay(image, prediction, k, background), "prediction"),
            show(error_map(image, truth, prediction), "errors"),
        ]
        text = f"mIoU {score[rows[sample]]:.3f}"
        gallery.items.append(
            Item(titles[rows[sample]], text, images, frozenset(keys[sample]), address(results, sample))
        )
    return gallery


def _class_section(counts: np.ndarray, names: Sequence[str], outputs: Outputs, gallery: Gallery) -> Section:
    hits, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, dice = hits / (truth + predicted - hits), 2 * hits / (truth + predicted)
        recall, precision, share = hits / truth, hits / predicted, truth / truth.sum()
    known = gallery.counts
    rows: list[Row] = [
        [
            gallery.cell(name, f"t{i}", f"with {name}", known),
            *(float(values[i]) for values in (iou, dice, recall, precision, share)),
        ]
        for i, name in enumerate(names)
    ]
    columns = ("class", "IoU", "Dice", "recall", "precision", "fraction of pixels")
    bars = bar_chart(names, {"IoU": iou}, axes=("", "IoU (0 to 1)"), horizontal=True, width=outputs.width)
    plots = figures(
        outputs.plot(bars, "iou-by-class", "IoU of each class."),
        outputs.plot(
            _plot_frequency(share, iou, names, outputs.width),
            "iou-by-frequency",
            "IoU by the fraction of pixels of the class.",
        ),
    )
    return Section(
        "classes", "Classes", [outputs.table(Table("classes", columns, rows, "Over all test pixels.")), plots]
    )


def _plot_frequency(share: np.ndarray, iou: np.ndarray, names: Sequence[str], width: float) -> Plot:
    with styled(width):
        figure, plot = new_axes(width, 0.8)
        some = (share > 0) & np.isfinite(iou)
        plot.scatter(share[some], iou[some], 22, COLOURS[0], zorder=3)
        if some.sum() <= 24:
            for index in np.flatnonzero(some).tolist():
                plot.annotate(
                    names[index],
                    (share[index], iou[index]),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize="small",
                )
        set_log(plot, "x")
        plot.set_ylim(0, 1.05)
        label_axes(plot, "", ("fraction of pixels", "IoU (0 to 1)"))
    return Plot(figure)


def find_background(names: Sequence[str]) -> int | None:
    """Return the index of the background class; None if the first class has another name."""
    return 0 if names and names[0].lower() == "background" else None


def _size_names() -> list[str]:
    low = [f"{a}² to {b}² px" for a, b in pairwise(_SIDES)]
    return [f"below {_SIDES[0]}² px", *low, f"from {_SIDES[-1]}² px"]


def _sizes(results: Results) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sample, size group and found fraction of each object of the truth, without the background."""
    table = results.tables["objects"]
    sample, label, pixels, found = (numbers(table[name]) for name in ("sample", "class", "pixels", "found"))
    objects = label != find_background(results.summary.class_names)
    group = np.searchsorted(np.square(_SIDES), pixels[objects], side="right")
    return sample[objects].astype(int), group, found[objects]


def _missed_objects(results: Results) -> Mapping[int, set[str]]:
    """Return the keys of the sizes of objects that were found by less than half, by sample."""
    keys: dict[int, set[str]] = {}
    if "objects" in results.tables:
        for sample, group, found in zip(*_sizes(results), strict=True):
            if found < 0.5:
                keys.setdefault(int(sample), set()).add(f"size{group}")
    return keys


def _size_section(results: Results, outputs: Outputs, gallery: Gallery) -> Section:
    _, group, found = _sizes(results)
    names, known = _size_names(), gallery.counts
    rows: list[Row] = []
    means: list[float] = []
    for index, name in enumerate(names):
        some = found[group == index]
        means.append(float(some.mean()) if len(some) else float("nan"))
        missed = gallery.cell(int((some < 0.5).sum()), f"size{index}", f"missed objects of {name}", known)
        rows.append([name, len(some), means[-1], missed])
    columns = ("size", "objects", "mean found fraction", "found by less than half")
    caption = "Connected areas of a class in the truth, without the background, by their number of pixels."
    bars = bar_chart(
        names, {"found": means}, axes=("", "mean found fraction (0 to 1)"), horizontal=True, width=outputs.width
    )
    table = outputs.table(Table("object_sizes", columns, rows, caption))
    plot = outputs.plot(bars, "found-by-size", "Fraction of an object's pixels that is found, by its size.")
    return Section("sizes", "Object size", [table, figures(plot)])
