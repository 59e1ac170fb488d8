"""Kinds of errors of a detector, as TIDE defines them (Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object
Detection Errors", section 2.2), and the average precision that a model without them would have (section 2.3)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from darkroom.report.tasks.matching import (
    NONE,
    Curve,
    Found,
    Matches,
    Scene,
    class_curves,
    match,
    mean_average_precision,
    precision_recall,
)

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU thresholds t_f and t_b
KINDS = {
    "classification": "IoU of at least .5 with an object of another class",
    "localization": "right class, but an IoU of .1 to .5",
    "both": "another class, and an IoU of .1 to .5",
    "duplicate": "right, but a detection with a higher score has found the object",
    "background": "IoU below .1 with every object",
    "missed": "object that was not found, and is not the cause of a classification or localization error",
}
RIGHT, IGNORED = "", "ignored"


@dataclass(frozen=True)
class Errors:
    """Kinds of errors of detections and objects.

    Args:
        kind: of each detection (M,); "" for right ones, "ignored" for those that do not count.
        object: int (M,), row of the object that a detection is about, -1 without one.
        missed: bool (N,), missed objects.
    """

    kind: np.ndarray
    object: np.ndarray
    missed: np.ndarray

    def counts(self, chosen: np.ndarray | slice = slice(None)) -> dict[str, int]:
        """Return the number of errors by kind, of the chosen detections."""
        counts = {kind: int((self.kind[chosen] == kind).sum()) for kind in KINDS}
        return counts | {"missed": int(self.missed.sum())}


def find_errors(found: Found, matches: Matches) -> Errors:
    """Assign a kind of error to each detection that found no object, and find missed objects.

    Args:
        found: detections and objects.
        matches: at an IoU of ``FOREGROUND``.
    """
    kind = np.full(len(found.detections.label), RIGHT, dtype="<U14")
    about = matches.object.copy()
    kind[matches.ignored] = IGNORED
    for scene in found.scenes:
        d = scene.detections
        for row in np.flatnonzero((matches.object[d] == NONE) & ~matches.ignored[d]).tolist():
            name, index = _kind(found, scene, row)
            kind[d.start + row], about[d.start + row] = name, index
    covered = np.zeros(len(found.objects.label), dtype=bool)
    causes = about[(kind == "classification") | (kind == "localization")]
    covered[causes] = True
    missed = ~matches.found & ~found.objects.ignored & ~covered
    return Errors(kind, about, missed)


def _kind(found: Found, scene: Scene, row: int) -> tuple[str, int]:
    """Return the kind of a false detection and the object that it is about."""
    o = scene.objects
    counted = ~found.objects.ignored[o]
    iou = np.where(counted, scene.iou[row], 0)
    same = found.objects.label[o] == found.detections.label[scene.detections.start + row]
    own, own_index = _highest(np.where(same, iou, 0))
    other, other_index = _highest(np.where(same, 0, iou))
    if BACKGROUND <= own < FOREGROUND:
        return "localization", o.start + own_index
    if other >= FOREGROUND:
        return "classification", o.start + other_index
    if own >= FOREGROUND:
        return "duplicate", o.start + own_index
    if other >= BACKGROUND:
        return "both", o.start + other_index
    return "background", NONE


def _highest(iou: np.ndarray) -> tuple[float, int]:
    return (float(iou.max()), int(iou.argmax())) if len(iou) else (0.0, NONE)


def average_precision_without(found: Found, matches: Matches, errors: Errors, kind: str) -> float:
    """Return the mean AP50 of a model without one kind of errors.

    A classification or localization error becomes right if its object was not found and no other of these errors about the
    object has a higher score. All other false detections of the kind are removed. Missed objects are removed from the
    truth.
    """
    if kind == "missed":
        objects = replace(found.objects, ignored=found.objects.ignored | errors.missed)
        return mean_average_precision(class_curves(replace(found, objects=objects), matches))
    wrong = errors.kind == kind
    label, right = found.detections.label.copy(), matches.object != NONE
    if kind in ("classification", "localization"):
        fixed = wrong & _fixable(found, matches, errors)
        label[fixed] = found.objects.label[errors.object[fixed]]
        right |= fixed
        wrong &= ~fixed
    kept = ~wrong & ~matches.ignored
    return _mean_average_precision(found, label[kept], found.detections.scores[kept], right[kept])


def _fixable(found: Found, matches: Matches, errors: Errors) -> np.ndarray:
    """Return a mask, bool (M,), of the error with the highest score on each object that was not found."""
    rows = np.flatnonzero((errors.kind == "classification") | (errors.kind == "localization"))
    rows = rows[~matches.found[errors.object[rows]]]
    rows = rows[np.argsort(-found.detections.scores[rows], kind="stable")]
    _, first = np.unique(errors.object[rows], return_index=True)
    fixable = np.zeros(len(errors.kind), dtype=bool)
    fixable[rows[first]] = True
    return fixable


def _mean_average_precision(found: Found, label: np.ndarray, scores: np.ndarray, right: np.ndarray) -> float:
    objects = np.bincount(found.objects.label[~found.objects.ignored], minlength=len(found.class_names) + 1)
    curves: Mapping[int, Curve] = {
        one: precision_recall(scores[label == one], right[label == one], int(objects[one]))
        for one in np.flatnonzero(objects).tolist()
    }
    return mean_average_precision(curves)


def gains(found: Found) -> tuple[Errors, dict[str, float]]:
    """Return the errors at an IoU of .5, and the gain in AP50 without each kind, at least 0."""
    matches = match(found, FOREGROUND)
    errors = find_errors(found, matches)
    before = mean_average_precision(class_curves(found, matches))
    return errors, {kind: max(0.0, average_precision_without(found, matches, errors, kind) - before) for kind in KINDS}
