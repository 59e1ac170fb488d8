"""Losses over a map of logits. Any ``nn.Module`` of (logits, mask) can stand in for them, by ``class_path``."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CrossEntropy(nn.Module):
    """Pixelwise cross-entropy, averaged over the pixels that count; 0 (not nan) where none does.

    ``logits`` (B, K, H, W), ``mask`` int64 (B, H, W) with ``ignore_index`` where nothing is known -> scalar.

    Args:
        ignore_index: mask value that does not count.
        class_weights: one factor per class; the average is weighted by them, as in ``torch.nn.CrossEntropyLoss``.
    """

    def __init__(self, ignore_index: int = 255, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", None if class_weights is None else torch.tensor(class_weights))

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        total = F.cross_entropy(logits, mask, self.class_weights, ignore_index=self.ignore_index, reduction="sum")
        counted = mask != self.ignore_index
        if self.class_weights is None:
            weight = counted.sum()
        else:
            weight = (self.class_weights[mask.where(counted, 0)] * counted).sum()
        return total / weight.clamp(min=torch.finfo(total.dtype).tiny)
