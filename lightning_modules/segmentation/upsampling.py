"""Upsampling: of logits by a fixed or learned kernel, of features to the positions of a pooling's maxima."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MapUpsampling = Literal["bilinear", "transposed", "nearest"]


def bilinear_kernel(size: int, stride: int) -> Tensor:
    """Return weights (size,) of bilinear interpolation by ``stride`` along one axis: a tent, size <= 2 stride."""
    distance = (torch.arange(size) - (size - 1) / 2).abs()
    return (1 - distance / stride).clamp(min=0)


class FixedUpsampling(nn.Module):
    """Transposed convolution with one constant kernel for all channels: (B, C, H, W) -> (B, C, s (H-1) + k, s (W-1) + k).

    The weights are a buffer and never trained, as in the networks of Long et al. 2015, where learning made no difference.

    Args:
        kernel: (k,) weights along either axis.
        stride: s.
    """

    weight: Tensor

    def __init__(self, kernel: Tensor, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("weight", torch.outer(kernel, kernel)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        # Channel by channel as a batch: grouped transposed convolutions are many times slower.
        maps = x.reshape(-1, 1, *x.shape[-2:])
        up = F.conv_transpose2d(maps, self.weight.to(x.dtype), stride=self.stride)
        return up.view(-1, channels, *up.shape[-2:])


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


def unpool(x: Tensor, indices: Tensor, size: torch.Size) -> Tensor:
    """Unpool a map (B, C, h, w) to the positions of its maxima in (B, C, *size), zero elsewhere.

    ``indices`` as ``max_pool2d`` returns them. Unlike ``max_unpool2d`` it is deterministic: without overlapping windows no
    two maxima share a position.
    """
    flat = x.new_zeros(*x.shape[:2], size[0] * size[1]).scatter(2, indices.flatten(2), x.flatten(2))
    return flat.unflatten(2, tuple(size))
