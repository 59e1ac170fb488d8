"""Answers of lesson 7."""

import torch
from torch import Tensor
from torch.nn import functional as F


def join_skip(skip: Tensor, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    top, left = (skip.shape[2] - height) // 2, (skip.shape[3] - width) // 2
    return torch.cat([skip[:, :, top : top + height, left : left + width], x], 1)


def border_weight(nearest: Tensor, second: Tensor, w0: float, sigma: float) -> Tensor:
    return 1 + w0 * torch.exp(-(nearest + second).square() / (2 * sigma**2))


def soft_dice(probabilities: Tensor, truth: Tensor) -> Tensor:
    both = (probabilities * truth).sum((1, 2))
    return (2 * both / (probabilities.sum((1, 2)) + truth.sum((1, 2)))).mean()


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """The broken version interpolates class ids: between classes 0 and 4 it makes class 2."""
    return F.interpolate(mask[None, None].float(), (height, width), mode="nearest")[0, 0].long()
