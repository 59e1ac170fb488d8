"""Matching of detections and objects, precision and recall, as COCO's evaluation defines them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from darkroom.runtime.records.results import Results
from darkroom.runtime.records.tables import Table, numbers

CORNERS = ("x0", "y0", "x1", "y1")
NONE = -1  # in place of the index of an object
_RECALLS = np.linspace(0, 1, 101)  # of COCO's average precision


@dataclass(frozen=True)
class Objects:
    """True objects of all samples, in the order of samples.

    Args:
        sample: int (N,).
        label: int (N,), from 1.
        boxes: float (N, 4), xyxy in pixels.
        ignored: bool (N,), crowds and difficult objects.
    """

    sample: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    ignored: np.ndarray


@dataclass(frozen=True)
class Detections:
    """Detections of all samples, in the order of samples and, within a sample, of descending scores.

    Args:
        sample: int (M,).
        label: int (M,), from 1.
        boxes: float (M, 4), xyxy in pixels.
        scores: float (M,).
    """

    sample: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Sample with a detection or an object.

    Args:
        detections, objects: rows of ``Detections`` and ``Objects``.
        iou: float (m, n); for an ignored object the fraction of the detection inside it, as for COCO's crowds.
    """

    detections: slice
    objects: slice
    iou: np.ndarray


@dataclass(frozen=True)
class Found:
    """Detections and objects of a test.

    Args:
        objects: the truth.
        detections: of the model.
        class_names: the name of label i is ``class_names[i - 1]``.
    """

    objects: Objects
    detections: Detections
    class_names: Sequence[str]

    @cached_property
    def scenes(self) -> list[Scene]:
        """Samples with a detection or an object."""
        samples = np.union1d(self.objects.sample, self.detections.sample)
        bounds = [
            np.searchsorted(which.sample, samples, side)
            for which in (self.detections, self.objects)
            for side in ("left", "right")
        ]
        scenes = []
        for a, b, c, d in zip(*(bound.tolist() for bound in bounds), strict=True):
            iou = overlaps(self.detections.boxes[a:b], self.objects.boxes[c:d], self.objects.ignored[c:d])
            scenes.append(Scene(slice(a, b), slice(c, d), iou))
        return scenes


def read_found(results: Results) -> Found:
    """Return the detections and objects of test results.

    Raises:
        KeyError: a table or a column is missing.
    """
    truths, found = _numeric(results.tables["truths"]), _numeric(results.tables["detections"])
    order = np.argsort(truths["sample"], kind="stable")
    truths = {name: column[order] for name, column in truths.items()}
    order = np.lexsort((-found["score"], found["sample"]))
    found = {name: column[order] for name, column in found.items()}
    return Found(
        Objects(truths["sample"].astype(int), truths["class"].astype(int), _boxes(truths), truths["ignored"] > 0),
        Detections(found["sample"].astype(int), found["class"].astype(int), _boxes(found), found["score"]),
        results.summary.class_names,
    )


def _numeric(table: Table) -> dict[str, np.ndarray]:
    return {name: numbers(column) for name, column in table.items()}


def _boxes(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.stack([columns[name] for name in CORNERS], 1)


def overlaps(boxes: np.ndarray, others: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """Return the IoU of each pair of boxes, float (m, n).

    Args:
        boxes: float (m, 4), xyxy.
        others: float (n, 4).
        inside: bool (n,): instead the fraction of the box inside the other one.
    """
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0.0), 2)
    areas, other_areas = (np.prod(np.maximum(some[:, 2:] - some[:, :2], 0), 1) for some in (boxes, others))
    union = areas[:, None] + other_areas - common
    if inside is not None:
        union = np.where(inside, areas[:, None], union)
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


@dataclass(frozen=True)
class Matches:
    """Objects that detections found, at one IoU.

    Args:
        object: int (M,), row of the object that a detection found; -1: none.
        ignored: bool (M,): the detection does not count.
        found: bool (N,): the object was found.
    """

    object: np.ndarray
    ignored: np.ndarray
    found: np.ndarray


def match(found: Found, iou: float) -> Matches:
    """Match detections and objects of the same class as COCO's evaluation does (https://cocodataset.org/#detection-eval).

    In descending order of score, a detection finds the free object of its class with the highest IoU of at least ``iou``.
    Detections without one that overlap an ignored object as much do not count.
    """
    matched = np.full(len(found.detections.label), NONE)
    excused = np.zeros(len(matched), dtype=bool)
    taken = np.zeros(len(found.objects.label), dtype=bool)
    ignored = found.objects.ignored
    for scene in found.scenes:
        d, o = scene.detections, scene.objects
        near = (scene.iou >= iou) & (found.detections.label[d, None] == found.objects.label[None, o])
        counted = ~ignored[o]
        for row in np.flatnonzero(near.any(1)).tolist():
            free = near[row] & counted & ~taken[o]
            if free.any():
                # The last one of equal IoUs, as COCO's loop takes it.
                candidates = np.where(free, scene.iou[row], -1)[::-1]
                index = o.start + len(candidates) - 1 - int(candidates.argmax())
                matched[d.start + row], taken[index] = index, True
            else:
                excused[d.start + row] = bool((near[row] & ~counted).any())
    return Matches(matched, excused, taken)


@dataclass(frozen=True)
class Curve:
    """Precision and recall of the detections with at least a score, by descending score.

    Args:
        scores: float (M,).
        recall, precision: float (M,).
        objects: number of objects to be found.
    """

    scores: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    objects: int

    @cached_property
    def at_recalls(self) -> np.ndarray:
        """Best precision at each of the recalls 0, .01, ..., 1 or any higher one, float (101,)."""
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        index = np.searchsorted(self.recall, _RECALLS, side="left")
        return np.append(best, 0.0)[index]

    @property
    def average_precision(self) -> float:
        """Mean of the precision at 101 recalls, as COCO defines it; nan without objects."""
        return float(self.at_recalls.mean()) if self.objects else float("nan")

    @cached_property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall, float (M,)."""
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)

    @property
    def best(self) -> tuple[float, float]:
        """Score threshold with the highest F1, and this F1; nan without detections or objects."""
        if not len(self.scores) or not self.objects:
            return float("nan"), float("nan")
        # Detections with equal scores are above a threshold together.
        last = np.append(self.scores[1:] != self.scores[:-1], True)
        index = int(np.where(last, self.f1, -1).argmax())
        return float(self.scores[index]), float(self.f1[index])


def precision_recall(scores: np.ndarray, right: np.ndarray, objects: int) -> Curve:
    """Return precision and recall.

    Args:
        scores: float (M,), in any order.
        right: bool (M,), the detection found an object.
        objects: number of objects to be found.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    count = np.arange(1, len(hits) + 1)
    return Curve(scores[order], hits / max(1, objects), hits / count, objects)


def class_curves(found: Found, matches: Matches) -> dict[int, Curve]:
    """Return precision and recall of each label that has an object or a detection."""
    counted = ~matches.ignored
    objects = np.bincount(found.objects.label[~found.objects.ignored], minlength=len(found.class_names) + 1)
    curves = {}
    for label in range(1, len(found.class_names) + 1):
        chosen = counted & (found.detections.label == label)
        if objects[label] or chosen.any():
            right = matches.object[chosen] != NONE
            curves[label] = precision_recall(found.detections.scores[chosen], right, int(objects[label]))
    return curves


def curve_of_all(found: Found, matches: Matches) -> Curve:
    """Return precision and recall of all classes together."""
    counted = ~matches.ignored
    right = matches.object[counted] != NONE
    return precision_recall(found.detections.scores[counted], right, int((~found.objects.ignored).sum()))


def mean_average_precision(curves: Mapping[int, Curve]) -> float:
    """Return the mean over the classes with objects; nan without one."""
    values = [curve.average_precision for curve in curves.values() if curve.objects]
    return float(np.mean(values)) if values else float("nan")


def confusion(found: Found, threshold: float, iou: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count objects by their true and detected classes, whatever the class of the detection.

    In descending order of score, a detection of at least ``threshold`` takes the free object with an IoU of at least
    ``iou``: one of its own class, if there is one, then the one with the highest IoU. Ignored objects, and detections on
    them, do not count.

    Returns:
        Counts int (K + 1, K + 1), with the truth along the rows; index 0 is the background: its row has detections without
        an object, its column objects without a detection. Then the true label of each detection, int (M,), 0 for the
        background and -1 for detections that do not count; and the detected label of each object, int (N,), likewise.
    """
    k = len(found.class_names)
    truth_of, seen_as = np.full(len(found.detections.label), NONE), np.where(found.objects.ignored, NONE, 0)
    for scene in found.scenes:
        d, o = scene.detections, scene.objects
        labels, counted = found.objects.label[o], ~found.objects.ignored[o]
        free = counted.copy()
        for row in range(scene.iou.shape[0]):
            index = d.start + row
            if found.detections.scores[index] < threshold:
                continue
            near = scene.iou[row] >= iou
            candidates = near & free
            if candidates.any():
                own = labels == found.detections.label[index]
                best = int(np.where(candidates, scene.iou[row] + 2 * own, -1).argmax())
                free[best] = False
                truth_of[index], seen_as[o.start + best] = labels[best], found.detections.label[index]
            elif not (near & ~counted).any():
                truth_of[index] = 0
    counts = np.zeros((k + 1, k + 1), dtype=np.int64)
    real = seen_as != NONE
    np.add.at(counts, (found.objects.label[real], seen_as[real]), 1)
    false = truth_of == 0
    np.add.at(counts, (np.zeros(int(false.sum()), dtype=int), found.detections.label[false]), 1)
    return counts, truth_of, seen_as


def iterate_scenes(found: Found) -> Iterator[tuple[int, Scene]]:
    """Yield each sample's number with its scene."""
    for scene in found.scenes:
        d, o = scene.detections, scene.objects
        sample = found.detections.sample[d.start] if d.stop > d.start else found.objects.sample[o.start]
        yield int(sample), scene
