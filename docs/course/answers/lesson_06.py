"""Answers of lesson 6."""

import torch
from torch import Tensor


def transposed_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * padding


def bilinear_kernel(stride: int) -> Tensor:
    size = 2 * stride - stride % 2
    distance = (torch.arange(size) - (size - 1) / 2).abs()
    tent = 1 - distance / stride
    return torch.outer(tent, tent)


def dilate_kernel(kernel: Tensor, dilation: int) -> Tensor:
    height, width = kernel.shape
    wide = torch.zeros(dilation * (height - 1) + 1, dilation * (width - 1) + 1)
    wide[::dilation, ::dilation] = kernel
    return wide


def transposed_convolution(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """The broken version has stride * N outputs, which cuts the last kernels off, or leaves zeros behind them."""
    output = torch.zeros(stride * (len(x) - 1) + len(kernel))
    for index, value in enumerate(x):
        output[index * stride : index * stride + len(kernel)] += value * kernel
    return output
