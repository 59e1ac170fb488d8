"""Optimizers that the papers' recipes need and torch lacks."""

from collections.abc import Iterable

import torch
from torch import nn

from darkroom.errors import UsageError


class CaffeSGD(torch.optim.SGD):
    """SGD as the Caffe recipes of FCN, R-CNN and dilated convolutions have it: biases learn faster and do not decay.

    "Doubled learning rate for biases" (Long, Shelhamer, Darrell 2015, section 4.3); that they do not decay is in the
    authors' Caffe definitions (``lr_mult: 2``, ``decay_mult: 0``). Biases are the parameters with one dimension, which the
    factors of a batch normalisation are too. Two parameter groups: weights, biases.

    The step is torch's, whose rate multiplies the velocity; Caffe's velocity holds the rate. They are the same while the
    rate is constant; after a change Caffe's keeps the old rate for as long as the momentum lasts.

    Args:
        params: parameters (not groups of them).
        lr: learning rate of the weights.
        momentum: part of the velocity that is kept from step to step.
        weight_decay: L2 penalty of the weights.
        bias_lr_factor: the biases' learning rate is this times ``lr``.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        bias_lr_factor: float = 2.0,
    ) -> None:
        if bias_lr_factor < 0:
            raise UsageError(f"CaffeSGD.bias_lr_factor is {bias_lr_factor}; it is 0 (biases stay as they are) or more")
        params = list(params)
        weights, biases = [p for p in params if p.ndim != 1], [p for p in params if p.ndim == 1]
        groups = [{"params": weights}, {"params": biases, "lr": bias_lr_factor * lr, "weight_decay": 0.0}]
        super().__init__(groups, lr, momentum, weight_decay=weight_decay)
