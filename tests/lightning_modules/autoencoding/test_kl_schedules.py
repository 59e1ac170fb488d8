"""Schedules of beta: end points, and the weight of a loss averaged over pixels."""

import pytest
import torch

from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding import Constant, Cyclical, Gaussian, PixelMeanWeight, WarmUp


def test_schedules_have_stated_end_points() -> None:
    assert [Constant(3.0)(p, 1) for p in (0.0, 0.5, 1.0)] == [3.0, 3.0, 3.0]
    assert [WarmUp(2.0, 0.5)(p, 1) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 1.0, 2.0, 2.0]
    assert [WarmUp(2.0, 1.0)(p, 1) for p in (0.0, 0.5, 1.0)] == [0.0, 1.0, 2.0]
    cyclical = Cyclical(1.0, cycles=4, ramp=0.5)
    assert [cyclical(p, 1) for p in (0.0, 0.0625, 0.125, 0.2, 0.25, 0.3125, 1.0)] == [0, 0.5, 1, 1, 0, 0.5, 1]


def test_one_cycle_equals_warm_up() -> None:
    for progress in (0.0, 0.1, 0.3, 0.7, 1.0):
        assert Cyclical(2.0, 1, 0.4)(progress, 1) == pytest.approx(WarmUp(2.0, 0.4)(progress, 1))


def test_pixel_mean_weight_scales_gradients_of_mean_loss() -> None:
    x, kl_weight = torch.rand(5, 3, 8, 8) * 2 - 1, 0.00025
    output, kl = torch.randn(5, 3, 8, 8, requires_grad=True), torch.rand(5, 7, requires_grad=True)
    ours = (-Gaussian(1.0).log_prob(output, x) + PixelMeanWeight(kl_weight)(0.0, 192) * kl.sum(1)).mean()
    means = (output - x).square().mean() + kl_weight * kl.sum(1).mean()
    for a, b in zip(torch.autograd.grad(ours, (output, kl)), torch.autograd.grad(means, (output, kl)), strict=True):
        torch.testing.assert_close(a, b * 192 / 2)


def test_pixel_mean_weight_matches_known_value() -> None:
    assert PixelMeanWeight(0.00025)(0.0, 3 * 64 * 64) == pytest.approx(1.536)


def test_out_of_range_arguments_raise() -> None:
    for build, message in (
        (lambda: Constant(-1), "Constant.beta must be .*got -1"),
        (lambda: WarmUp(fraction=0), "WarmUp.fraction must be .*got 0"),
        (lambda: Cyclical(cycles=0), "Cyclical.cycles must be .*got 0"),
        (lambda: Cyclical(ramp=1.5), "Cyclical.ramp must be .*got 1.5"),
        (lambda: PixelMeanWeight(float("inf")), "PixelMeanWeight.kl_weight must be .*got inf"),
    ):
        with pytest.raises(UsageError, match=message):
            build()
