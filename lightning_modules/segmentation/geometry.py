"""Geometry: mirrored borders of any width, margins of networks, and coordinates after strides and paddings."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn, sym_max
from torch.compiler import is_exporting

from darkroom.lightning_modules.layers.symbolic_sides import as_one_symbol, ceil_div
from darkroom.protocols import UnpaddedNetwork


def mirror_pad(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Extend (..., H, W) by mirroring at the border pixels, which are not repeated, also by more than its own size.

    Negative amounts crop.
    """
    for dim, before, after in ((-2, top, bottom), (-1, left, right)):
        side = x.shape[dim]
        if is_exporting() or before or after:  # an exported graph is for images of all sizes
            extent = torch.full((), side, device=x.device)  # tensors: ONNX has no remainder by a symbolic number
            period = (2 * extent - 2).clamp(min=1)
            index = torch.arange(-before, side + after, device=x.device).remainder(period)
            x = x.index_select(dim, torch.where(index < extent, index, period - index))
    return x


def mirror_to_grid(x: Tensor, stride: int = 32) -> Tensor:
    """Extend (..., H, W) at the bottom and the right by mirroring, up to sides of ``stride`` n + 1, n >= 1.

    Padded convolutions of these sides have a cell on the first and on the last pixel: cell i of a map of stride S lies at
    pixel S i, also with TensorFlow's padding, which depends on the side.
    """
    bottom, right = (
        stride * as_one_symbol(sym_max(1, ceil_div(side - 1, stride)), least=1) + 1 - side for side in x.shape[-2:]
    )
    return mirror_pad(x, 0, bottom, 0, right)


def coordinate_map(layers: Iterable[nn.Module]) -> tuple[int, float]:
    """Return stride and shift of a stack of convolutions and poolings.

    Output i lies at ``stride * i + shift`` of the input, in pixels; a pixel's index is the coordinate of its centre.
    """
    stride, shift = 1, 0.0
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            kernel, step = _extent(layer.kernel_size), _extent(layer.stride)
            padding, dilation = _extent(layer.padding), _extent(layer.dilation)
            shift += ((kernel - 1) * dilation / 2 - padding) * stride
            stride *= step
    return stride, shift


def _extent(value: int | tuple[int, ...] | str) -> int:
    """Return the vertical extent of an option of a convolution or pooling."""
    assert not isinstance(value, str)  # a padding by name
    return value if isinstance(value, int) else value[0]


def margin_of(network: nn.Module) -> int:
    """Return the pixels that each side of an image loses in a network without padding, else 0."""
    return network.margin if isinstance(network, UnpaddedNetwork) else 0
