"""Lesson 3: R-CNN to Faster R-CNN. Write three functions and repair the fourth: darkroom check lesson 3."""

import torch
from torch import Tensor


def encode_offsets(boxes: Tensor, references: Tensor) -> Tensor:
    """Encode boxes as offsets from reference boxes (Girshick et al. 2014, equations 6 to 9).

    Args:
        boxes: x1, y1, x2, y2 in pixels, (P, 4).
        references: proposals or anchors, (P, 4).

    Returns:
        (P, 4): shifts of the center along x and y in sides of the reference, and logarithms of the ratios of width and
        height.
    """
    raise NotImplementedError


def anchors_at(x: float, y: float, sides: Tensor, ratios: Tensor) -> Tensor:
    """Place the anchors of Faster R-CNN around a point (Ren et al. 2015, section 3.1.1).

    Args:
        x, y: center of all anchors in pixels.
        sides: square roots of the areas, (S,).
        ratios: height divided by width, (R,).

    Returns:
        x1, y1, x2, y2, (S * R, 4): all ratios of the first side, then those of the next one.
    """
    raise NotImplementedError


def average_precision(right: Tensor, objects: int) -> float:
    """Compute the average precision of a class (PASCAL VOC from 2010 on).

    Args:
        right: True for true positives, bool (M,), in the order of falling scores.
        objects: number of objects to be found, at least 1 and at least the number of true positives.

    Returns:
        area under the curve of precision over recall, in [0, 1]. The precision at a recall is interpolated: the highest
        precision at this recall or a higher one.
    """
    raise NotImplementedError


def refine(anchors: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    """Compute proposals from anchors and predicted offsets, inside of the image.

    Anchors may reach beyond the border of the image; the network is trained with offsets from the whole anchor.

    Args:
        anchors: x1, y1, x2, y2 in pixels, (P, 4).
        offsets: as from ``encode_offsets``, (P, 4).
        height, width: of the image.

    Returns:
        boxes, (P, 4), clipped to the image.
    """
    limits = anchors.new_tensor([width, height, width, height])
    anchors = anchors.clamp(min=0).minimum(limits)
    sizes = anchors[:, 2:] - anchors[:, :2]
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2 + offsets[:, :2] * sizes
    halves = sizes * offsets[:, 2:].exp() / 2
    return torch.cat([centers - halves, centers + halves], 1)
