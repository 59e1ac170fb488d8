"""Upsampling by transposed convolution against interpolation."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.lightning_modules.segmentation.fcn import FCNNetwork
from darkroom.lightning_modules.segmentation.upsampling import (
    FixedUpsampling,
    aligned_upsampling,
    bilinear_kernel,
    build_upsampling,
    crop,
)


@pytest.mark.parametrize("stride", [2, 8, 16])
def test_bilinear_upsampling_matches_interpolation_inside(stride: int) -> None:
    x = torch.randn(2, 3, 6, 5)
    up = build_upsampling("bilinear", 3, stride)(x)
    assert up.shape == (2, 3, stride * 7, stride * 6)
    cut = stride // 2
    expected = F.interpolate(x, scale_factor=stride, mode="bilinear", align_corners=False)
    inside = (..., slice(stride, -stride), slice(stride, -stride))
    torch.testing.assert_close(up[..., cut:-cut, cut:-cut][inside], expected[inside])


def test_learned_upsampling_is_initialized_as_bilinear() -> None:
    x = torch.randn(1, 4, 5, 5)
    learned = build_upsampling("transposed", 4, 4)
    torch.testing.assert_close(learned(x), build_upsampling("bilinear", 4, 4)(x))
    assert [p.requires_grad for p in learned.parameters()] == [True]
    assert learned.bias is None


def test_bilinear_and_nearest_have_no_parameters() -> None:
    for kind in ("bilinear", "nearest"):
        up = build_upsampling(kind, 4, 4)
        assert not list(up.parameters())
        assert not up.state_dict()  # constants are not saved


def test_nearest_upsampling_matches_interpolation() -> None:
    x = torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(build_upsampling("nearest", 2, 8)(x), F.interpolate(x, scale_factor=8, mode="nearest"))


def test_bilinear_kernel_matches_caffe() -> None:
    assert bilinear_kernel(4, 2).tolist() == [0.25, 0.75, 0.75, 0.25]
    assert bilinear_kernel(3, 2).tolist() == [0.5, 1.0, 0.5]


def transposed_convolution(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    channels = x.shape[1]
    weight = torch.outer(kernel, kernel).expand(channels, 1, -1, -1)
    return F.conv_transpose2d(x, weight, stride=stride, groups=channels)


# (stride, kernel): bilinear of even and odd size, nearest, one with gaps, one that overlaps three times.
KERNELS = [
    (8, bilinear_kernel(16, 8)),
    (2, bilinear_kernel(4, 2)),
    (8, bilinear_kernel(15, 8)),
    (2, bilinear_kernel(3, 2)),
    (4, torch.ones(4)),
    (3, torch.tensor([0.5, 2.0])),
    (2, torch.tensor([1.0, -2.0, 3.0, 0.25, 5.0])),
]


@pytest.mark.parametrize(("stride", "kernel"), KERNELS)
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 7), (6, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fixed_upsampling_is_a_transposed_convolution(
    stride: int, kernel: Tensor, size: tuple[int, int], layout: torch.memory_format
) -> None:
    x = torch.rand(2, 3, *size).to(memory_format=layout).requires_grad_()
    same = x.detach().clone().requires_grad_()
    up, expected = FixedUpsampling(kernel, stride)(x), transposed_convolution(same, kernel, stride)
    torch.testing.assert_close(up, expected, rtol=1e-6, atol=1e-6)
    slope = torch.rand_like(expected)
    up.backward(slope)
    expected.backward(slope)
    torch.testing.assert_close(x.grad, same.grad, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("backbone", "image"), [("vgg11", (33, 50)), ("caffenet", (64, 41))])
def test_fcn_crops_its_upsampled_logits_as_those_of_a_transposed_convolution(
    backbone: Any, image: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = FCNNetwork(num_classes=3, backbone=backbone, width=0.03).eval()
    for layer in (network.score, *network.score_pools):
        torch.nn.init.normal_(layer.weight)
    x = torch.rand(1, 3, *image)
    with torch.no_grad():
        logits = network(x)
        for up in (*network.ups, network.up):
            kernel = bilinear_kernel(up.size, up.stride)
            monkeypatch.setattr(up, "forward", partial(transposed_convolution, kernel=kernel, stride=up.stride))
        expected = network(x)
    assert logits.shape == (1, 3, *image)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


def test_fixed_upsampling_has_the_precision_of_its_input_or_of_autocast() -> None:
    up, x = build_upsampling("bilinear", 3, 8), torch.rand(1, 3, 5, 4)
    exact = up(x)
    assert up(x.double()).dtype == torch.float64
    half = up(x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = up(x)
    for result in (half, mixed):
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result.float(), exact, rtol=3 * 2**-8, atol=0)  # of the input and of either pass


@pytest.mark.parametrize("kind", ["bilinear", "transposed"])
@pytest.mark.parametrize(("stride", "shift"), [(2, 0.0), (8, 0.0), (8, 3.5), (32, 15.5)])
def test_aligned_upsampling_has_cells_on_their_pixels(kind: Any, stride: int, shift: float) -> None:
    up, offset = aligned_upsampling(kind, 1, stride, shift)
    ramp = torch.arange(5.0).expand(1, 1, 5, 5) * stride + shift  # each cell has the coordinate of its pixel
    pixels = crop(up(ramp), offset, (4 * stride, 4 * stride))[0, 0]
    inside = slice(int(shift) + 1, None)
    expected = torch.arange(4.0 * stride).expand(4 * stride, -1)
    torch.testing.assert_close(pixels[inside, inside], expected[inside, inside])
