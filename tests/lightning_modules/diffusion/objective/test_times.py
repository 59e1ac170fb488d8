"""Distributions of training times against the densities of the papers."""

import math

import pytest
import torch
from torch.distributions import Normal

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.continuous_schedules import EDMSchedule, RectifiedFlow
from darkroom.lightning_modules.diffusion.objective.noise_schedules import LinearSchedule, NoiseSchedule
from darkroom.lightning_modules.diffusion.objective.times import (
    LogitNormalTimes,
    LogNormalSigma,
    TimeDistribution,
    UniformTimes,
)

CPU = torch.device("cpu")
FLOW = RectifiedFlow(1000)
EVERY = [UniformTimes(), LogitNormalTimes(), LogNormalSigma()]


def test_uniform_whole_times_are_those_of_randint() -> None:
    """Check that the seed of a run gives the times that it gave before there were distributions."""
    torch.manual_seed(3)
    expected = torch.randint(1000, (64,))
    torch.manual_seed(3)
    assert torch.equal(UniformTimes().sample(64, LinearSchedule(), CPU), expected)
    u = torch.tensor([0.0, 0.1234, 0.9999999])
    assert UniformTimes().quantile(u, LinearSchedule()).tolist() == [0, 123, 999]


def test_uniform_times_of_continuous_schedule_are_real() -> None:
    torch.manual_seed(0)
    t = UniformTimes().sample(50_000, FLOW, CPU)
    assert t.dtype == torch.float32
    assert -1 < t.min() < -0.8
    assert t.max() <= 999
    s = (t + 1) / 1000
    assert s.mean().item() == pytest.approx(0.5, abs=0.005)
    assert s.std().item() == pytest.approx(1 / math.sqrt(12), abs=0.005)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.6), (-0.7, 1.5)])
def test_logit_normal_times_have_density_of_equation_19(mean: float, std: float) -> None:
    torch.manual_seed(0)
    s = (LogitNormalTimes(mean, std).sample(100_000, FLOW, CPU).double() + 1) / 1000
    edges = torch.linspace(0, 1, 11, dtype=torch.float64)
    inner = torch.linspace(0, 1, 4001, dtype=torch.float64)[:-1] + 1 / 8000
    logit = (inner / (1 - inner)).log()
    density = torch.exp(-((logit - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi) * inner * (1 - inner))
    expected = density.view(10, -1).mean(1) / 10
    found = torch.histogram(s, edges).hist / len(s)
    torch.testing.assert_close(found, expected, atol=0.005, rtol=0)


def test_shift_of_equation_23_is_a_mean_of_logit_normal_times() -> None:
    u, shift = torch.tensor([0.1, 0.5, 0.8]), 3.0
    s = (LogitNormalTimes(0.2, 0.9).quantile(u, FLOW) + 1) / 1000
    shifted = (LogitNormalTimes(0.2 + math.log(shift), 0.9).quantile(u, FLOW) + 1) / 1000
    torch.testing.assert_close(shifted, shift * s / (1 + (shift - 1) * s), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("schedule", [EDMSchedule(), FLOW], ids=["edm", "flow"])
def test_log_noise_levels_are_normal(schedule: NoiseSchedule) -> None:
    torch.manual_seed(0)
    t = LogNormalSigma().sample(50_000, schedule, CPU)
    alpha, sigma = (value.flatten() for value in schedule.alpha_sigma(t))
    level = (sigma / alpha).log()
    assert level.mean().item() == pytest.approx(-1.2, abs=0.02)
    assert level.std().item() == pytest.approx(1.2, abs=0.02)
    quantiles = torch.tensor([0.01, 0.3, 0.9])
    torch.testing.assert_close(level.quantile(quantiles), Normal(-1.2, 1.2).icdf(quantiles), atol=0.06, rtol=0)


def test_noise_levels_out_of_range_are_the_ends() -> None:
    schedule = EDMSchedule(100, 0.1, 1)
    t = LogNormalSigma(0.0, 5.0).quantile(torch.tensor([0.01, 0.99, 1.0]), schedule)
    assert t.tolist() == [0, 99, 99]


@pytest.mark.parametrize("times", EVERY, ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("schedule", [LinearSchedule(50), FLOW, EDMSchedule(50)], ids=["linear", "flow", "edm"])
def test_times_are_within_schedule(times: TimeDistribution, schedule: NoiseSchedule) -> None:
    torch.manual_seed(0)
    sampled = times.sample(1000, schedule, CPU)
    ends = times.quantile(torch.tensor([2.0**-24, 1.0]), schedule)
    for t in (sampled, ends):
        assert t.is_floating_point() == schedule.continuous
        assert t.isfinite().all()
        assert t.max() <= schedule.num_steps - 1
        assert t.min() > -1
        assert (t.min() >= 0) | (schedule is FLOW)
    assert (ends.diff() > 0).all()


@pytest.mark.parametrize("kind", [LogitNormalTimes, LogNormalSigma])
def test_invalid_parameters_raise(kind: type) -> None:
    with pytest.raises(UsageError, match="model.objective.times.std must be above 0, got 0"):
        kind(std=0)
    with pytest.raises(UsageError, match="model.objective.times.mean must be a finite number, got nan"):
        kind(mean=math.nan)
