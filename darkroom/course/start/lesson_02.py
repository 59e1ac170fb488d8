"""Lesson 2: sliding windows and proposals. Write three functions and repair the fourth: darkroom check lesson 2."""

import torch
from torch import Tensor
from torchvision.ops import box_iou


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Compute the intersection over union of all pairs of boxes.

    Write it with comparisons and arithmetic of tensors, not with torchvision.

    Args:
        boxes: x1, y1, x2, y2 in pixels, float (N, 4), each with an area above 0.
        others: (M, 4).

    Returns:
        (N, M) in [0, 1]; 0 for boxes that do not overlap.
    """
    raise NotImplementedError


def count_windows(height: int, width: int, window: int, stride: int) -> int:
    """Count the positions of a square window that slides over an image and stays inside.

    Args:
        height, width: of the image in pixels, at least ``window``.
        window: side in pixels.
        stride: distance of neighbouring positions along both axes, at least 1.

    Returns:
        number of windows.
    """
    raise NotImplementedError


def recall(proposals: Tensor, objects: Tensor, count: int, threshold: float) -> float:
    """Compute the fraction of objects that one of the first proposals covers well enough.

    Args:
        proposals: best first, (P, 4).
        objects: (N, 4), at least one.
        count: number of first proposals that count, at least 1, possibly above P.
        threshold: IoU from which on an object is found.

    Returns:
        recall in [0, 1].
    """
    raise NotImplementedError


def non_maximum_suppression(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Keep the best of overlapping boxes: greedily, each box suppresses those with a lower score that it overlaps.

    A box that is suppressed itself suppresses no other box.

    Args:
        boxes: (N, 4).
        scores: (N,).
        threshold: a box is suppressed if its IoU with a box that is kept is above this.

    Returns:
        indices of the boxes that are kept, int64, the highest score first.
    """
    order = scores.argsort(descending=True)
    iou = box_iou(boxes[order], boxes[order])
    overlaps_better = (iou > threshold).triu(diagonal=1).any(0)
    return order[~overlaps_better].to(torch.int64)
