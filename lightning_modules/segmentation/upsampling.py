"""Upsampling: of logits by a fixed or learned kernel, of features to the positions of a pooling's maxima."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.compiler import is_exporting
from torch.nn import functional as F

MapUpsampling = Literal["bilinear", "transposed", "nearest"]


def bilinear_kernel(size: int, stride: int) -> Tensor:
    """Return weights (size,) of bilinear interpolation by ``stride`` along one axis: a tent, size <= 2 stride."""
    distance = (torch.arange(size) - (size - 1) / 2).abs()
    return (1 - distance / stride).clamp(min=0)


class FixedUpsampling(nn.Module):
    """Transposed convolution with one constant kernel for all channels: (B, C, H, W) -> (B, C, s (H-1) + k, s (W-1) + k).

    The weights are a buffer and never trained, as in the networks of Long et al. 2015, where learning made no difference.

    The kernel is the outer product of ``kernel`` with itself, so one axis is upsampled after the other, by a small matrix
    product each. ``conv_transpose2d`` computes the same on a slow path: a map of one channel is too narrow for its kernels.
    In float32 the two differ by rounding. In half precision, and under autocast, the map between the two passes is rounded
    too: the result is within two roundings of the exact value instead of one.

    Args:
        kernel: (k,) weights along either axis.
        stride: s.
    """

    taps: Tensor

    def __init__(self, kernel: Tensor, stride: int) -> None:
        super().__init__()
        self.stride, self.size = stride, len(kernel)
        count = -(-self.size // stride)  # n, the inputs that overlap at an output
        taps = F.pad(kernel, (0, count * stride - self.size)).view(count, stride)
        self.register_buffer("taps", taps.flip(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample by one transposed convolution per channel; the result has the type of ``x``, or autocast's."""
        taps = self.taps.to(x.dtype)
        wide = (self._windows(x, -1) @ taps).flatten(-2)[..., : self._length(x.shape[-1])]
        high = (taps.T @ self._windows(wide, -2)).flatten(-3, -2)
        return high[..., : self._length(x.shape[-2]), :]

    def _length(self, length: int) -> int:
        return self.stride * (length - 1) + self.size

    def _windows(self, x: Tensor, dim: int) -> Tensor:
        """Return all windows of n neighbours along a dimension, -1 or -2, as a new dimension after it.

        Each is what overlaps at ``stride`` neighbouring outputs. Slices instead of ``unfold``, whose backward pass is slow.
        """
        count = len(self.taps)
        ends = (count - 1, count - 1)
        padded = F.pad(x, ends if dim == -1 else (0, 0, *ends))
        length = x.shape[dim] + count - 1
        return torch.stack([padded.narrow(dim, i, length) for i in range(count)], dim)


def build_upsampling(kind: MapUpsampling, channels: int, stride: int, size: int | None = None) -> nn.Module:
    """Build upsampling of logits by ``stride``, without cropping: (B, C, H, W) -> (B, C, s (H-1) + k, s (W-1) + k).

    "bilinear" is constant; "transposed" starts as bilinear and is trained; "nearest" repeats every cell, k = s.

    Args:
        kind: of upsampling.
        channels: C.
        stride: s.
        size: k of the bilinear kernel; 2 s by default.
    """
    if kind == "nearest":
        return FixedUpsampling(torch.ones(stride), stride)
    kernel = bilinear_kernel(size or 2 * stride, stride)
    if kind == "bilinear":
        return FixedUpsampling(kernel, stride)
    learned = nn.ConvTranspose2d(channels, channels, len(kernel), stride, bias=False)
    with torch.no_grad():
        learned.weight.zero_()
        learned.weight[range(channels), range(channels)] = torch.outer(kernel, kernel)
    return learned


def upsampling_size(kind: MapUpsampling, stride: int, shift: float) -> int:
    """Return 2 s, or 2 s - 1 if only that aligns pixels with pixels (the paper's AlexNet); s for nearest."""
    if kind == "nearest":
        return stride
    return 2 * stride if (shift - (2 * stride - 1) / 2).is_integer() else 2 * stride - 1


def aligned_upsampling(kind: MapUpsampling, channels: int, stride: int, shift: float) -> tuple[nn.Module, int]:
    """Build upsampling of a map whose cell i lies at ``stride * i + shift``; return it and the index of 0 in its result.

    Args:
        kind, channels: see ``build_upsampling``.
        stride: s, of the map in pixels, or in cells of a finer map.
        shift: of the map's first cell, in the same unit.
    """
    size = upsampling_size(kind, stride, shift)
    return build_upsampling(kind, channels, stride, size), int((size - 1) / 2 - shift)


def crop(x: Tensor, offset: int | tuple[int, int], size: torch.Size | tuple[int, int]) -> Tensor:
    """Return the area of ``size`` of a map (B, C, H, W) that begins at ``offset``, one for both directions or two."""
    top, left = (offset, offset) if isinstance(offset, int) else offset
    if not is_exporting():
        return x[..., top : top + size[0], left : left + size[1]]
    # Tracing does not simplify the extents of slices with symbolic ends; it does those of negative padding.
    bottom, right = top + size[0] - x.shape[-2], left + size[1] - x.shape[-1]
    return F.pad(x, (-left, right, -top, bottom))


def unpool(x: Tensor, indices: Tensor, size: torch.Size) -> Tensor:
    """Unpool a map (B, C, h, w) to the positions of its maxima in (B, C, *size), zero elsewhere.

    ``indices`` as ``max_pool2d`` returns them. Unlike ``max_unpool2d`` it is deterministic: without overlapping windows no
    two maxima share a position.
    """
    flat = x.new_zeros(*x.shape[:2], size[0] * size[1]).scatter(2, indices.flatten(2), x.flatten(2))
    return flat.unflatten(2, tuple(size))
