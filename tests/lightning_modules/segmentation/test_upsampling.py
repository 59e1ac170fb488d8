"""Upsampling by transposed convolution against interpolation."""

import pytest
import torch
from torch.nn import functional as F

from darkroom.lightning_modules.segmentation.upsampling import bilinear_kernel, build_upsampling


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
