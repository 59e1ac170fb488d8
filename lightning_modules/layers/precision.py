"""Precision: numbers that must not lose any."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class KeepFloat32(nn.Module):
    """Mixed into a module whose parameters and buffers, with those of its parts, stay float32 under ``bf16-true``.

    They move from device to device with the rest; a cast does not reach them. For running means and scales, whose small
    steps a number of 8 bits rounds away.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        def uncast(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            return applied if applied.dtype == tensor.dtype else tensor.to(applied.device)

        return super()._apply(uncast, *args, **kwargs)


def with_float64(device: torch.device) -> torch.device:
    """The device itself, or the CPU where it has no float64."""
    return torch.device("cpu") if device.type == "mps" else device
