"""Where a pixel goes: mirrored borders of any width, and the coordinates of maps behind strides and paddings."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def mirror_pad(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Extends (..., H, W) by mirroring at the border pixels, which are not repeated; by more than its own size if need be.

    Negative amounts cut.
    """
    for dim, before, after in ((-2, top, bottom), (-1, left, right)):
        side = x.shape[dim]
        if before or after:
            period = max(1, 2 * (side - 1))
            index = torch.arange(-before, side + after, device=x.device).remainder(period)
            x = x.index_select(dim, torch.where(index < side, index, period - index))
    return x


def coordinate_map(layers: Iterable[nn.Module]) -> tuple[int, float]:
    """Stride and shift of a stack of convolutions and poolings: its output i lies at ``stride * i + shift`` of its input.

    Both in pixels, a pixel's own index being its middle.
    """
    stride, shift = 1, 0.0
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            kernel, step, padding, dilation = (
                value if isinstance(value, int) else value[0]
                for value in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
            )
            shift += ((kernel - 1) * dilation / 2 - padding) * stride
            stride *= step
    return stride, shift
