"""Precision: modules that stay float32, float64 where available, and checks of images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError


class KeepFloat32(nn.Module):
    """Mixin for modules whose parameters and buffers, with those of their parts, stay float32 under ``bf16-true``.

    They move between devices; casts are ignored. For running means and scales, whose small steps bfloat16 rounds away.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        def apply_without_cast(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            return applied if applied.dtype == tensor.dtype else tensor.to(applied.device)

        return super()._apply(apply_without_cast, *args, **kwargs)


def with_float64(device: torch.device) -> torch.device:
    """Return the device, or the CPU if the device has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def check_images(image: Tensor, network: nn.Module) -> None:
    """Check that images have the type of one of a network's weights, or that autocast converts them.

    Raises:
        UsageError: names both types.
    """
    if image.dtype == torch.uint8:
        raise UsageError(
            "uint8 images reached the network; the datamodule's on_after_batch_transfer normalizes them (pass the "
            "datamodule to the Trainer, or normalize them yourself)"
        )
    if image.dtype == next((weight.dtype for weight in network.parameters()), image.dtype):
        return  # without iterating over all weights, every step
    known = dict.fromkeys(weight.dtype for weight in network.parameters())
    autocast = image.is_floating_point() and torch.is_autocast_enabled(image.device.type)
    if image.dtype not in known and (image.dtype == torch.float64 or not autocast):
        names = " and ".join(map(str, known))
        raise UsageError(
            f"images of {image.dtype} reached the network, whose weights are {names}; convert them to that"
        )
