"""Answers of lesson 2."""

import torch
from torch import Tensor
from torchvision.ops import box_iou


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    low = torch.maximum(boxes[:, None, :2], others[:, :2])
    high = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area, other_area = ((one[:, 2:] - one[:, :2]).prod(-1) for one in (boxes, others))
    return both / (area[:, None] + other_area - both)


def count_windows(height: int, width: int, window: int, stride: int) -> int:
    return ((height - window) // stride + 1) * ((width - window) // stride + 1)


def recall(proposals: Tensor, objects: Tensor, count: int, threshold: float) -> float:
    best = box_iou(objects, proposals[:count]).max(1).values
    return float((best >= threshold).float().mean())


def non_maximum_suppression(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The broken version lets suppressed boxes suppress others, so chains of boxes vanish."""
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if not kept or box_iou(boxes[[index]], boxes[kept]).max() <= threshold:
            kept.append(index)
    return torch.tensor(kept)
