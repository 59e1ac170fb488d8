"""MutualInformationGap: codes with known gap, and a direct implementation of the definition."""

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


def make_factors(count: int = 20_000) -> Tensor:
    """Return a discrete factor of five values and a continuous one."""
    return torch.stack([torch.randint(0, 5, (count,)).float(), torch.rand(count)], 1)


def test_gap_of_disentangled_codes_is_one() -> None:
    factors = make_factors()
    noise = torch.randn(len(factors), 2)
    mean, each = gap(torch.cat([noise[:, :1], factors * 3 - 1, noise[:, 1:]], 1), factors)
    assert min(each) > 0.99
    assert mean == pytest.approx(sum(each) / 2)


def test_gap_of_duplicated_dimensions_is_zero() -> None:
    factors = make_factors()
    assert gap(torch.cat([factors, -factors], 1), factors)[0] == pytest.approx(0, abs=1e-3)


def test_gap_of_noise_is_zero() -> None:
    factors = make_factors()
    assert gap(torch.randn(len(factors), 6), factors)[0] == pytest.approx(0, abs=0.01)


def test_gap_of_half_a_factor_is_one_half() -> None:
    """Check codes with one of the two bits of a factor and a dimension of noise."""
    bits = torch.randint(0, 2, (20_000, 2)).float()
    codes = torch.stack([bits[:, 0], torch.randn(20_000)], 1)
    assert gap(codes, bits[:, :1] * 2 + bits[:, 1:])[0] == pytest.approx(0.5, abs=0.01)


def test_constant_factor_is_nan_and_constant_dimension_is_ignored() -> None:
    factors = torch.cat([make_factors(), torch.full((20_000, 1), 7.0)], 1)
    mean, each = gap(torch.cat([factors[:, :2], torch.zeros(20_000, 1)], 1), factors)
    assert math.isnan(each[2])
    assert mean == pytest.approx(sum(each[:2]) / 2) == pytest.approx(1, abs=0.01)


def direct_gap(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> float:
    """Compute Chen et al. 2018, eq. 6, with explicit sums."""

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


def test_gap_matches_definition() -> None:
    factors = make_factors(500)
    codes = factors @ torch.randn(2, 3) + 0.3 * torch.randn(500, 3)
    assert gap(codes, factors)[0] == pytest.approx(direct_gap(codes.numpy(), factors.numpy()), abs=1e-5)


def test_one_dimension_raises() -> None:
    with pytest.raises(UsageError, match="at least 2 dimensions, got 1"):
        MutualInformationGap().update(torch.zeros(4, 1), torch.zeros(4, 2))


def test_supports_inference_mode_and_bfloat16() -> None:
    factors = make_factors(2000)
    with torch.inference_mode():
        assert gap(factors.bfloat16(), factors)[0] > 0.8
