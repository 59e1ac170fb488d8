"""Confusion counts of class ids, for metrics of pixels and of images."""

import torch
from torch import Tensor


def count_pairs(target: Tensor, preds: Tensor, num_classes: int, ignore_index: int | None = None) -> Tensor:
    """Count pairs of a true and a predicted class.

    Args:
        target: int (...), class ids or ``ignore_index``.
        preds: int (...), class ids.
        num_classes: K.
        ignore_index: truth with this value does not count; None: all counts.

    Returns:
        int64 (K, K), with the truth along the rows and the prediction along the columns.
    """
    k = num_classes
    cell = target * k + preds
    if ignore_index is not None:
        cell = torch.where(target == ignore_index, k * k, cell)
    cell = cell.flatten()
    # Not torch.bincount: on a GPU it synchronizes to get the number of bins.
    counts = torch.zeros(k * k + 1, dtype=torch.long, device=cell.device)
    return counts.scatter_add_(0, cell, torch.ones_like(cell))[:-1].view(k, k)
