"""Answers of lesson 4."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou


def encode_box(box: Tensor, side: int, grid: int) -> tuple[int, int, Tensor]:
    center, size = (box[:2] + box[2:]) / 2 / side * grid, (box[2:] - box[:2]) / side
    corner = center.floor()
    column, row = corner.long().tolist()
    return row, column, torch.cat([center - corner, size])


def match_default_boxes(default_boxes: Tensor, boxes: Tensor, threshold: float) -> Tensor:
    iou, index = box_iou(default_boxes, boxes).max(1)
    return torch.where(iou > threshold, index, -1)


def hard_negatives(losses: Tensor, positive: Tensor, ratio: int) -> Tensor:
    ranks = losses.masked_fill(positive, -torch.inf).argsort(1, descending=True).argsort(1)
    return (ranks < ratio * positive.sum(1, keepdim=True)) & ~positive


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The broken version lets objects of different classes suppress each other."""
    return batched_nms(boxes, scores, labels, threshold)
