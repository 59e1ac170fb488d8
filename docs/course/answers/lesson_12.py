"""Answers of lesson 12."""

from collections.abc import Callable

import torch
from torch import Tensor


def drop_labels(labels: Tensor, uniform: Tensor, probability: float, null: int) -> Tensor:
    return torch.where(uniform < probability, null, labels)


def dynamic_threshold(x0: Tensor, percentile: float) -> Tensor:
    scale = torch.quantile(x0.abs().flatten(1), percentile, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    return x0.clamp(-scale, scale) / scale


def v_to_eps(v: Tensor, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
    return alpha * v + sigma * x_t


def guided_prediction(
    network: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, labels: Tensor, null: int, weight: float
) -> Tensor:
    """The broken version exchanges the two predictions, so it is right only for the weight 1/2."""
    conditional = network(x_t, labels)
    unconditional = network(x_t, labels.new_full(labels.shape, null))
    return unconditional + weight * (conditional - unconditional)
