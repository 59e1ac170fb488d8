"""The same test images with the predictions of every method."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from darkroom.callbacks.plotting.style import class_palette
from darkroom.report.compare.groups import Group
from darkroom.report.gallery import Gallery, Item
from darkroom.report.markup import Html, paragraph
from darkroom.report.samples import (
    Box,
    draw_boxes,
    kept_samples,
    overlay,
    read_ids,
    read_image,
    sample_titles,
    show,
)
from darkroom.report.tasks.captions import Judgements, shorten
from darkroom.report.tasks.matching import CORNERS
from darkroom.runtime.records.results import Results, image_path
from darkroom.runtime.records.tables import Table, numbers

MOST = 16  # samples
_SCORE = 0.5  # of detections that are shown
Drawer = Callable[[Results, int, np.ndarray], np.ndarray]
"""Draws the prediction of one method for a sample over its image uint8 (H, W, 3); returns its own image of a caption."""


def side_by_side(groups: Sequence[Group]) -> list[Html]:
    """Return a gallery of the samples on which the first runs of the methods differ most, or the reason for its lack."""
    tested = [(group.name, group.runs[0].results) for group in groups]
    results = [one for _, one in tested if one is not None]
    if len(results) < len(tested):
        missing = ", ".join(name for name, one in tested if one is None)
        return [
            paragraph(f"The test results of {missing} are missing; run darkroom test --ckpt_path on its checkpoint.")
        ]
    task = results[0].summary.task
    if task not in _DRAWERS or "samples" not in results[0].tables:
        return [paragraph(f"Tests of {task} record no images of single samples.")]
    samples = shared_samples(results)
    if not samples:
        return [paragraph("No image was kept in the results of all methods.")]
    gallery, damaged = Gallery("same-images"), 0
    for sample in samples:
        try:
            item = _item(sample, [(name, one) for name, one in tested if one is not None], _DRAWERS[task])
        except OSError:  # an image that is cut off
            damaged += 1
        else:
            gallery.items.append(item)
    left_out = [f"{damaged} of {len(samples)} samples are left out, because an image is damaged."] if damaged else []
    return [*([gallery.html()] if gallery.items else []), *map(paragraph, left_out)]


def shared_samples(results: Sequence[Results]) -> list[int]:
    """Return samples with an image in every result, those with the largest difference of scores first."""
    kept = set.intersection(*map(kept_samples, results))
    if not kept:
        return []
    scores = [sample_scores(one) for one in results]
    span = {sample: _span([one.get(sample, np.nan) for one in scores]) for sample in kept}
    return sorted(kept, key=lambda sample: (-span[sample], sample))[:MOST]


def _span(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return max(known) - min(known) if known else 0.0


def sample_scores(results: Results) -> dict[int, float]:
    """Return the score of each sample.

    That is the IoU, the probability of a right class, 1 or 0 for a right or a wrong image of a caption, or minus the error
    of the number of objects.
    """
    table = results.tables["samples"]
    samples = [int(sample) for sample in table["sample"]]
    if results.summary.task == "segmentation":
        values = numbers(table["mIoU"])
    elif results.summary.task == "classification":
        right = np.array(table["truth"]) == np.array(table["predicted"])
        values = np.where(right, 1.0, -1.0) * numbers(table["probability"])
    elif results.summary.task == "captions":
        values = numbers(table["right"])
    else:
        found = results.tables["detections"]
        pairs = zip(found["sample"], numbers(found["score"]).tolist(), strict=True)
        seen = Counter(int(sample) for sample, score in pairs if score >= _SCORE)
        values = -np.abs([seen[sample] for sample in samples] - numbers(table["objects"]))
    return dict(zip(samples, values.tolist(), strict=True))


def _item(sample: int, tested: Sequence[tuple[str, Results]], draw: Drawer) -> Item:
    first = tested[0][1]
    path = first.image(sample)
    assert path is not None  # one of the kept samples
    image = read_image(path)
    images = [] if first.summary.task == "captions" else [show(image, "image")]
    truth = _draw_truth(first, sample, image)
    if truth is not None:
        images.append(show(truth, "truth"))
    images += [show(draw(one, sample, image), f"{name}: {_describe(one, sample)}") for name, one in tested]
    titles = dict(zip(map(int, first.tables["samples"]["sample"]), sample_titles(first), strict=True))
    return Item(titles[sample], "", images, frozenset())


def _describe(results: Results, sample: int) -> str:
    """Return the prediction of a sample in words: its class, its score, its errors, or the number of detections."""
    table = results.tables["samples"]
    row = table["sample"].index(str(sample))
    if results.summary.task == "segmentation":
        return f"mIoU {float(table['mIoU'][row] or 'nan'):.3f}"
    if results.summary.task == "classification":
        name = results.summary.class_names[int(table["predicted"][row])]
        return f"{name} {float(table['probability'][row]):.2f}"
    if results.summary.task == "captions":
        return shorten(Judgements(results).wrong(row)) or "right"
    found = results.tables["detections"]
    pairs = zip(found["sample"], found["score"], strict=True)
    count = sum(one == str(sample) and float(score) >= _SCORE for one, score in pairs)
    return f"{count} detections"


def _draw_truth(results: Results, sample: int, image: np.ndarray) -> np.ndarray | None:
    """Draw the true mask or boxes of a sample; None for a task without them."""
    path = results.image(sample, "truth")
    if path:
        return _paint(image, read_ids(path, image.shape[:2]), len(results.summary.class_names))
    if "truths" not in results.tables:
        return None
    return _draw_rows(results, results.tables["truths"], sample, image)


def _paint(image: np.ndarray, ids: np.ndarray, num_classes: int) -> np.ndarray:
    return overlay(image, ids, num_classes, background=0 if num_classes > 1 else None)


def _draw_mask(results: Results, sample: int, image: np.ndarray) -> np.ndarray:
    path = results.image(sample, "prediction")
    if path is None:
        return image
    return _paint(image, read_ids(path, image.shape[:2]), len(results.summary.class_names))


def _draw_detections(results: Results, sample: int, image: np.ndarray) -> np.ndarray:
    return _draw_rows(results, results.tables["detections"], sample, image)


def _draw_rows(results: Results, boxes: Table, sample: int, image: np.ndarray) -> np.ndarray:
    """Draw the boxes of a sample in the colours of their classes; detections of low scores are left out."""
    samples = results.tables["samples"]
    factor = image.shape[1] / float(samples["width"][samples["sample"].index(str(sample))])
    scores = boxes.get("score", ["1"] * len(boxes["sample"]))
    shown = []
    for row, one in enumerate(boxes["sample"]):
        if one == str(sample) and float(scores[row]) >= _SCORE:
            label = int(boxes["class"][row])
            red, green, blue = class_palette(255)[1 + (label - 1) % 254].tolist()
            corners = [factor * float(boxes[name][row]) for name in CORNERS]
            shown.append(Box(corners, (red, green, blue), results.summary.class_names[label - 1]))
    return draw_boxes(image, shown)


_DRAWERS: dict[str, Drawer] = {
    "segmentation": _draw_mask,
    "classification": lambda results, sample, image: image,
    "detection": _draw_detections,
    "captions": lambda results, sample, image: read_image(image_path(results.folder, sample)),
}
