"""Matches of detections and objects by VOC's rule, for precision by recall."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torchvision.ops import box_iou


def true_positives(
    detections: Sequence[np.ndarray], truths: Sequence[np.ndarray], iou: float
) -> Iterator[tuple[int, np.ndarray, int]]:
    """Yield label, true positives and number of objects of each class that has objects to be found.

    Each detection claims the object of its class and image with the highest IoU (VOC's development kit, VOCevaldet). The
    first claim with enough overlap, by score, is right. Claims of ignored objects are left out.

    Args:
        detections: per image float64 (M, 7): sample, label, score, box; see ``runtime.records.results``.
        truths: per image float64 (N, 7): sample, label, box, ignored; in any order of images.
        iou: least overlap.

    Returns:
        Label, bool (M',) by descending score, and the number of objects that are not ignored.
    """
    found, objects = _stack(detections), _stack(truths)
    overlap, claimed = _claims(found, objects)
    ignored = np.append(objects[:, 6] > 0, False)
    for label in np.unique(objects[objects[:, 6] == 0, 1]).tolist():
        chosen = np.flatnonzero(found[:, 1] == label)
        chosen = chosen[np.argsort(-found[chosen, 2], kind="stable")]
        claims = overlap[chosen] >= iou
        counted = ~(claims & ignored[claimed[chosen]])
        claims, targets = claims[counted], claimed[chosen][counted]
        candidates = np.flatnonzero(claims)
        right = np.zeros(len(claims), bool)
        right[candidates[np.unique(targets[candidates], return_index=True)[1]]] = True
        yield int(label), right, int(((objects[:, 1] == label) & (objects[:, 6] == 0)).sum())


def _stack(images: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros((0, 7)), *images])


def _claims(found: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest IoU of each detection with an object of its class and image, and the row of that object."""
    overlap, claimed = np.zeros(len(found)), np.full(len(found), len(objects))
    rows_of = {sample: np.flatnonzero(objects[:, 0] == sample) for sample in np.unique(objects[:, 0]).tolist()}
    for sample in np.unique(found[:, 0]).tolist():
        rows = rows_of.get(sample)
        if rows is not None:
            here = np.flatnonzero(found[:, 0] == sample)
            values = box_iou(torch.from_numpy(found[here, 3:7]), torch.from_numpy(objects[rows, 2:6])).numpy()
            values = np.where(found[here, 1, None] == objects[rows, 1], values, 0)
            overlap[here], claimed[here] = values.max(1), rows[values.argmax(1)]
    return overlap, claimed
