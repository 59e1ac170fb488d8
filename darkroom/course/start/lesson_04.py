"""Lesson 4: YOLO and SSD. Write three functions and repair the fourth: darkroom check lesson 4."""

from torch import Tensor
from torchvision.ops import nms


def encode_box(box: Tensor, side: int, grid: int) -> tuple[int, int, Tensor]:
    """Find YOLO's cell of an object and compute what the cell must predict (Redmon et al. 2016, section 2).

    Args:
        box: x1, y1, x2, y2 in pixels, float (4,), inside the image.
        side: of the square image in pixels.
        grid: S, cells along each side.

    Returns:
        row and column of the cell in which the center of the box lies, from 0, and x, y, w, h, float (4,): the center from
        the upper left corner of the cell in sides of the cell, in [0, 1), and the size in sides of the image.
    """
    raise NotImplementedError


def match_default_boxes(default_boxes: Tensor, boxes: Tensor, threshold: float) -> Tensor:
    """Match each default box of SSD to the object that it overlaps most, if the IoU is above a threshold.

    This is the second rule of Liu et al. 2016, section 2.2; the first one, a best default box for each object, is left out.

    Args:
        default_boxes: xyxy, (P, 4).
        boxes: of the objects, xyxy, (N, 4), at least one.
        threshold: IoU.

    Returns:
        index of the object, int64 (P,), or -1 for the background.
    """
    raise NotImplementedError


def hard_negatives(losses: Tensor, positive: Tensor, ratio: int) -> Tensor:
    """Select the background boxes with the highest losses, up to ``ratio`` for each positive box of the same image.

    Args:
        losses: of each default box, (B, P).
        positive: True for boxes that are matched to an object, bool (B, P).
        ratio: 3 in the paper.

    Returns:
        bool (B, P), False where ``positive`` is True.
    """
    raise NotImplementedError


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Suppress duplicates: of detections of one class that overlap by more than a threshold, keep the best.

    Args:
        boxes: xyxy, (N, 4).
        scores: (N,).
        labels: class of each detection, int64 (N,).
        threshold: IoU.

    Returns:
        indices of the detections that stay, int64, the highest score first.
    """
    return nms(boxes, scores, threshold)
