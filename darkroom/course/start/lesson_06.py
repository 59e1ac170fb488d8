"""Lesson 6: transposed and dilated convolutions. Write three functions and repair the fourth: darkroom check lesson 6."""

import torch
from torch import Tensor


def transposed_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Compute the output size of a transposed convolution along one axis, without output padding.

    Args:
        size: of the input, at least 1.
        kernel, stride, padding, dilation: of the layer, as in ``nn.ConvTranspose2d``.

    Returns:
        size of the output.
    """
    raise NotImplementedError


def bilinear_kernel(stride: int) -> Tensor:
    """Compute the kernel with which a transposed convolution of this stride interpolates bilinearly.

    Args:
        stride: s, at least 1.

    Returns:
        (k, k) with k = 2 s for an even stride, 2 s - 1 for an odd one: the outer product of a tent with itself. The tent is
        symmetric, and neighbouring values differ by 1 / s.
    """
    raise NotImplementedError


def dilate_kernel(kernel: Tensor, dilation: int) -> Tensor:
    """Insert zeros into a kernel, so that an ordinary convolution with it equals a dilated one with the given kernel.

    Args:
        kernel: (h, w).
        dilation: d, at least 1.

    Returns:
        (d (h - 1) + 1, d (w - 1) + 1).
    """
    raise NotImplementedError


def transposed_convolution(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Compute a transposed convolution along one axis, without padding: each input adds a scaled kernel to the output.

    Args:
        x: (N,).
        kernel: (k,).
        stride: distance of the places at which the kernels of neighbouring inputs begin.

    Returns:
        output, long enough for all kernels.
    """
    size = stride * len(x)
    output = torch.zeros(size)
    for index, value in enumerate(x):
        begin = index * stride
        output[begin : begin + len(kernel)] += value * kernel[: size - begin]
    return output
