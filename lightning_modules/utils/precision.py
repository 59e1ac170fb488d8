"""Precision: numbers that must not lose any."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError


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


def check_images(image: Tensor, network: nn.Module) -> None:
    """Refuses images of a type that none of a network's weights has, unless autocast converts them.

    Raises:
        UsageError: names both types.
    """
    if image.dtype == torch.uint8:
        raise UsageError(
            "uint8 images reached the network; they are normalised by the datamodule's on_after_batch_transfer (pass "
            "the datamodule to the Trainer, or normalise them yourself)"
        )
    if image.dtype == next((weight.dtype for weight in network.parameters()), image.dtype):
        return  # without looking at all of them, every step
    known = dict.fromkeys(weight.dtype for weight in network.parameters())
    autocast = image.is_floating_point() and torch.is_autocast_enabled(image.device.type)
    if image.dtype not in known and (image.dtype == torch.float64 or not autocast):
        names = " and ".join(map(str, known))
        raise UsageError(
            f"images of {image.dtype} reached the network, whose weights are {names}; convert them to that"
        )
