"""MutualInformationGap: codes whose gap is known, and a literal implementation of the definition."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding.disentanglement import MutualInformationGap


def gap(codes: Tensor, factors: Tensor) -> tuple[float, list[float]]:
    metric = MutualInformationGap()
    for part in zip(codes.split(1000), factors.split(1000), strict=True):
        metric.update(*part)
    mean, each = metric.compute()
    return mean.item(), each.tolist()


def world(count: int = 20_000) -> Tensor:
    """A discrete factor of five values, and a continuous one."""
    return torch.stack([torch.randint(0, 5, (count,)).float(), torch.rand(count)], 1)


def test_a_code_that_is_the_factors_has_gap_one() -> None:
    factors = world()
    noise = torch.randn(len(factors), 2)
    mean, each = gap(torch.cat([noise[:, :1], factors * 3 - 1, noise[:, 1:]], 1), factors)
    assert min(each) > 0.99
    assert mean == pytest.approx(sum(each) / 2)


def test_two_dimensions_that_know_the_same_have_none() -> None:
    factors = world()
    assert gap(torch.cat([factors, -factors], 1), factors)[0] == pytest.approx(0, abs=1e-3)


def test_noise_knows_nothing() -> None:
    factors = world()
    assert gap(torch.randn(len(factors), 6), factors)[0] == pytest.approx(0, abs=0.01)


def test_half_a_factor() -> None:
    """One dimension knows one of the two bits of a factor, the other dimension nothing."""
    bits = torch.randint(0, 2, (20_000, 2)).float()
    codes = torch.stack([bits[:, 0], torch.randn(20_000)], 1)
    assert gap(codes, bits[:, :1] * 2 + bits[:, 1:])[0] == pytest.approx(0.5, abs=0.01)


def test_a_factor_that_never_varies_and_a_dimension_that_collapsed() -> None:
    factors = torch.cat([world(), torch.full((20_000, 1), 7.0)], 1)
    mean, each = gap(torch.cat([factors[:, :2], torch.zeros(20_000, 1)], 1), factors)
    assert math.isnan(each[2])
    assert mean == pytest.approx(sum(each[:2]) / 2) == pytest.approx(1, abs=0.01)


def literal(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> float:
    """Chen et al. 2018, eq. 6, with sums written out."""

    def cells(values: np.ndarray, discrete: bool) -> np.ndarray:
        if discrete and len(set(values.tolist())) <= bins:
            return values
        edges = np.linspace(values.min(), values.max(), bins + 1)
        return np.digitize(values, edges[1:-1])

    gaps = []
    for v in (cells(factor, True) for factor in factors.T):
        share = {k: np.mean(v == k) for k in set(v.tolist())}
        entropy = -sum(p * math.log(p) for p in share.values())
        information = []
        for z in (cells(code, False) for code in codes.T):
            total = 0.0
            for k, p in share.items():
                for j in set(z.tolist()):
                    joint = np.mean((v == k) & (z == j))
                    total += joint * math.log(joint / (p * np.mean(z == j))) if joint else 0
            information.append(total)
        second, best = sorted(information)[-2:]
        gaps.append((best - second) / entropy)
    return float(np.mean(gaps))


def test_literal_definition() -> None:
    factors = world(500)
    codes = factors @ torch.randn(2, 3) + 0.3 * torch.randn(500, 3)
    assert gap(codes, factors)[0] == pytest.approx(literal(codes.numpy(), factors.numpy()), abs=1e-5)


def test_one_dimension_has_no_gap() -> None:
    with pytest.raises(UsageError, match="at least 2 dimensions, got 1"):
        MutualInformationGap().update(torch.zeros(4, 1), torch.zeros(4, 2))


def test_inference_mode_and_other_types() -> None:
    factors = world(2000)
    with torch.inference_mode():
        assert gap(factors.bfloat16(), factors)[0] > 0.8
