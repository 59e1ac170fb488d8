"""Lesson 6: transposed and dilated convolutions."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.lightning_modules.segmentation.upsampling import bilinear_kernel


def _layers(generator: Generator) -> Sequence[Inputs]:
    inputs = []
    for _ in range(6):
        size, kernel, stride, dilation = (int(torch.randint(1, 6, (), generator=generator)) for _ in range(4))
        inputs.append(
            {
                "size": size + 2,
                "kernel": kernel + 2,
                "stride": stride,
                "padding": int(torch.randint(2, (), generator=generator)),
                "dilation": dilation,
            }
        )
    return inputs


def _strides(generator: Generator) -> Sequence[Inputs]:
    return [{"stride": stride} for stride in (1, 2, 3, 4, 8)]


def _kernels(generator: Generator) -> Sequence[Inputs]:
    return [
        {"kernel": torch.randn(h, w, generator=generator), "dilation": d}
        for h, w, d in ((3, 3, 1), (3, 3, 2), (2, 4, 3), (1, 3, 4))
    ]


def _signals(generator: Generator) -> Sequence[Inputs]:
    return [
        {"x": torch.randn(n, generator=generator), "kernel": torch.randn(k, generator=generator), "stride": stride}
        for n, k, stride in ((3, 2, 2), (4, 4, 2), (3, 2, 3), (1, 3, 1))
    ]


def _transposed_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    layer = nn.ConvTranspose1d(1, 1, kernel, stride, padding, dilation=dilation)
    return layer(torch.zeros(1, 1, size)).shape[-1]


def _bilinear(stride: int) -> Tensor:
    tent = bilinear_kernel(2 * stride - stride % 2, stride)
    return torch.outer(tent, tent)


def _dilate(kernel: Tensor, dilation: int) -> Tensor:
    spread = F.conv_transpose2d(kernel[None, None], torch.ones(1, 1, 1, 1), stride=dilation)
    return spread[0, 0]


def _zeros_behind(kernel: Tensor, dilation: int) -> Tensor:
    return F.pad(_dilate(kernel, dilation), (0, dilation - 1, 0, dilation - 1))


def _transposed(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return F.conv_transpose1d(x[None, None], kernel[None, None], stride=stride)[0, 0]


def _cut(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    whole = F.pad(_transposed(x, kernel, stride), (0, stride))
    return whole[: stride * len(x)]


EXERCISES = (
    Exercise(
        "transposed_size",
        _transposed_size,
        _layers,
        (
            Mistake(
                lambda size, kernel, stride, padding, dilation: (
                    (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
                ),
                "this is the output size of an ordinary convolution; the transposed one exchanges input and output",
            ),
            Mistake(
                lambda size, kernel, stride, padding, dilation: size * stride,
                "input size times stride is right only for some kernels and paddings",
            ),
            Mistake(
                lambda size, kernel, stride, padding, dilation: stride * (size - 1) + kernel - 2 * padding,
                "dilation is ignored",
            ),
            Mistake(
                lambda size, kernel, stride, padding, dilation: (
                    stride * (size - 1) + dilation * (kernel - 1) + 1 + 2 * padding
                ),
                "padding has the wrong sign: in a transposed convolution it removes pixels of the output",
            ),
        ),
    ),
    Exercise(
        "bilinear_kernel",
        _bilinear,
        _strides,
        (
            Mistake(
                lambda stride: _bilinear(stride) / _bilinear(stride).sum(),
                "the kernel sums to 1; it must sum to about s^2, since every output gets only some of its weights",
            ),
        ),
    ),
    Exercise(
        "dilate_kernel",
        _dilate,
        _kernels,
        (
            Mistake(_zeros_behind, "zeros belong between the weights, but not behind the last ones"),
            Mistake(
                lambda kernel, dilation: kernel.repeat_interleave(dilation, 0).repeat_interleave(dilation, 1),
                "weights are repeated; a dilated kernel has zeros between them",
            ),
        ),
    ),
    Exercise(
        "transposed_convolution",
        _transposed,
        _signals,
        (
            Mistake(
                _cut,
                "the output has stride times N values, whatever the kernel; how long is it if N is 1?",
            ),
        ),
        repair=True,
    ),
)
