"""Answers of lesson 3."""

import torch
from torch import Tensor


def encode_offsets(boxes: Tensor, references: Tensor) -> Tensor:
    sizes, from_sizes = (one[:, 2:] - one[:, :2] for one in (boxes, references))
    shift = (boxes[:, :2] + boxes[:, 2:] - references[:, :2] - references[:, 2:]) / 2
    return torch.cat([shift / from_sizes, (sizes / from_sizes).log()], 1)


def anchors_at(x: float, y: float, sides: Tensor, ratios: Tensor) -> Tensor:
    heights = (sides[:, None] * ratios.sqrt()).flatten()
    widths = (sides[:, None] / ratios.sqrt()).flatten()
    return torch.stack([x - widths / 2, y - heights / 2, x + widths / 2, y + heights / 2], 1)


def average_precision(right: Tensor, objects: int) -> float:
    precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
    best = precision.flip(0).cummax(0).values.flip(0)
    return float(best[right].sum() / objects)


def refine(anchors: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    """The broken version clips the anchors, which moves the boxes, and leaves the proposals unclipped."""
    sizes = anchors[:, 2:] - anchors[:, :2]
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2 + offsets[:, :2] * sizes
    halves = sizes * offsets[:, 2:].exp() / 2
    boxes = torch.cat([centers - halves, centers + halves], 1)
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
