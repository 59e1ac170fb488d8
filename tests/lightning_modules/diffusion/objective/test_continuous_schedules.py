"""Rectified flow, EDM's noise levels and zero terminal SNR: coefficients, times and ends."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.continuous_schedules import EDMSchedule, RectifiedFlow
from darkroom.lightning_modules.diffusion.objective.noise_schedules import (
    CosineSchedule,
    LinearSchedule,
    NoiseSchedule,
    SigmoidSchedule,
    ZeroTerminalSNR,
)

SCHEDULES = [
    *(RectifiedFlow(), RectifiedFlow(2), EDMSchedule(), EDMSchedule(40, 0.01, 20)),
    *(ZeroTerminalSNR(), ZeroTerminalSNR(CosineSchedule(10)), ZeroTerminalSNR(CosineSchedule(2))),
]
every = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda it: f"{type(it).__name__}-{it.num_steps}")


# --- rectified flow ---------------------------------------------------------------------------------------------------


def test_rectified_flow_is_a_straight_path() -> None:
    schedule = RectifiedFlow(100)
    for t, s in ((-1, 0.0), (-0.5, 0.005), (24, 0.25), (49.5, 0.505), (99, 1.0)):
        assert schedule.at(t) == pytest.approx((1 - s, s), abs=1e-12)
    assert schedule.at(99)[0] == 0
    t = torch.tensor([-1.0, -0.75, 30.2, 99.0])
    alpha, sigma = schedule.alpha_sigma(t)
    assert alpha.shape == sigma.shape == (4, 1, 1, 1)
    torch.testing.assert_close(sigma.flatten(), (t + 1) / 100)
    torch.testing.assert_close(alpha + sigma, torch.ones(4, 1, 1, 1))


@pytest.mark.parametrize("schedule", [RectifiedFlow(50), RectifiedFlow(2)], ids=["50", "2"])
def test_steps_of_rectified_flow_compose(schedule: RectifiedFlow) -> None:
    """Check that steps x_t = (alpha_t / alpha_{t-1}) x_{t-1} + sqrt(beta_t) z have the moments of the straight path."""
    variance, expected = 0.0, 1.0  # of x_t given x_0, and of x_t for images of variance 1
    for t, beta in enumerate(schedule.betas.tolist()):
        (alpha, sigma), (alpha_prev, _) = schedule.at(t), schedule.at(t - 1)
        kept = (alpha / alpha_prev) ** 2
        before, expected = expected, kept * expected + beta
        variance = kept * variance + beta
        assert variance == pytest.approx(sigma**2, rel=1e-5)
        assert schedule.power(t) == pytest.approx(expected, rel=1e-5)
        # Var[x_{t-1} | x_t] of jointly normal x_{t-1} and x_t, for images of noise
        large = before - kept * before**2 / expected
        assert schedule.large_variance(torch.tensor([t])).item() == pytest.approx(large, rel=1e-4)


# --- EDM --------------------------------------------------------------------------------------------------------------


def test_edm_levels_are_even_in_their_logarithm() -> None:
    schedule = EDMSchedule()
    levels = torch.tensor([schedule.at(t)[1] / schedule.at(t)[0] for t in range(1000)], dtype=torch.float64)
    assert levels[0].item() == pytest.approx(0.002)
    assert levels[-1].item() == pytest.approx(80)
    torch.testing.assert_close(levels.log().diff(), torch.full((999,), math.log(40_000) / 999).double())
    assert schedule.at(999)[0] ** 2 + schedule.at(999)[1] ** 2 == pytest.approx(1)


# --- zero terminal SNR ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [LinearSchedule(), CosineSchedule(50), SigmoidSchedule(20)], ids=["1000", "50", "20"])
def test_rescaled_schedule_matches_algorithm_1(base: NoiseSchedule) -> None:
    schedule = ZeroTerminalSNR(base)
    roots = torch.tensor([base.at(t)[0] for t in range(base.num_steps)], dtype=torch.float64)
    first, last = roots[0].clone(), roots[-1].clone()
    roots = (roots - last) * first / (first - last)
    for t, root in enumerate(roots.tolist()):
        assert schedule.at(t)[0] == pytest.approx(root, rel=1e-9)
    assert schedule.at(base.num_steps - 1) == (0.0, 1.0)
    assert schedule.at(0)[0] == pytest.approx(base.at(0)[0])
    assert schedule.betas[-1] == 1


def test_diffusers_rescaled_betas_are_equal() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(1000, beta_schedule="linear", rescale_betas_zero_snr=True)
    torch.testing.assert_close(ZeroTerminalSNR().alphas[:-1].square(), theirs.alphas_cumprod, rtol=2e-3, atol=1e-6)


def test_alpha_is_linear_in_last_step() -> None:
    schedule = ZeroTerminalSNR(CosineSchedule(10))
    before = schedule.at(8)[0]
    for fraction in (0.25, 0.5, 0.999):
        assert schedule.at(8 + fraction)[0] == pytest.approx(before * (1 - fraction))
    assert schedule.half_log_snr(9) == -math.inf
    assert schedule.time_of(-math.inf) == 9


# --- all --------------------------------------------------------------------------------------------------------------


@every
def test_tables_match_exact_values(schedule: NoiseSchedule) -> None:
    t = torch.arange(schedule.num_steps)
    exact = torch.tensor([schedule.at(int(i)) for i in t], dtype=torch.float64).float()
    alpha, sigma = (value.flatten() for value in schedule.alpha_sigma(t))
    torch.testing.assert_close(
        torch.stack([schedule.alphas[:-1], schedule.sigmas[:-1]], 1), exact, rtol=2e-6, atol=1e-7
    )
    torch.testing.assert_close(torch.stack([alpha, sigma], 1), exact, rtol=2e-6, atol=1e-7)
    image = schedule.alpha_sigma(torch.tensor([-1]))
    assert [value.item() for value in image] == [1, 0]
    assert schedule.at(-1) == (1, 0)
    snr = schedule.alphas[:-1] / schedule.sigmas[:-1]
    assert (snr[:-1] > snr[1:]).all()
    assert ((schedule.betas > 0) & (schedule.betas <= 1)).all()


@every
def test_real_times_are_between_whole_ones(schedule: NoiseSchedule) -> None:
    times = [index / 7 * (schedule.num_steps - 1) for index in range(8)]
    exact = torch.tensor([schedule.at(t) for t in times], dtype=torch.float64).float()
    if schedule.continuous:
        found = torch.stack(schedule.alpha_sigma(torch.tensor(times)), 1).flatten(1)
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    assert (exact[:, 0].diff() < 0).all()
    for t in times:
        assert schedule.time_of(schedule.half_log_snr(t)) == pytest.approx(t, abs=1e-6)


@every
def test_times_of_noise_have_that_noise(schedule: NoiseSchedule) -> None:
    log_noise = torch.tensor([-2.0, -0.3, 0.9])
    t = schedule.times_of_noise(log_noise)
    if schedule.continuous:
        found = [-schedule.half_log_snr(one) for one in t.tolist()]
        torch.testing.assert_close(torch.tensor(found), log_noise, atol=1e-3, rtol=0)
        return
    for one, wanted in zip(t.tolist(), log_noise.tolist(), strict=True):
        assert -schedule.half_log_snr(one) >= wanted
        assert one == 0 or -schedule.half_log_snr(one - 1) < wanted


def test_casts_keep_tables_in_float32() -> None:
    for schedule in SCHEDULES:
        model = nn.Sequential(type(schedule)() if not isinstance(schedule, ZeroTerminalSNR) else ZeroTerminalSNR())
        assert all(table.dtype == torch.float32 for table in model.bfloat16().buffers())
        assert not model.state_dict()
    with torch.device("meta"):
        assert RectifiedFlow().at(0) == RectifiedFlow().at(0)
        assert ZeroTerminalSNR().at(0) == ZeroTerminalSNR().at(0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RectifiedFlow(1), "model.schedule.num_steps must be at least 2, got 1"),
        (lambda: EDMSchedule(1), "model.schedule.num_steps must be at least 2, got 1"),
        (lambda: EDMSchedule(sigma_min=0), "model.schedule.sigma_min must be above 0 .*got 0 and 80"),
        (lambda: EDMSchedule(sigma_min=2, sigma_max=1), "below model.schedule.sigma_max, got 2 and 1"),
        (lambda: ZeroTerminalSNR(RectifiedFlow()), "model.schedule.schedule must be .*got RectifiedFlow"),
        (lambda: ZeroTerminalSNR(ZeroTerminalSNR()), "model.schedule.schedule must be .*got ZeroTerminalSNR"),
        (lambda: NoiseSchedule(torch.tensor([0.1, 0.5]), ends_in_noise=True), "1 of them not in"),
    ],
)
def test_out_of_range_arguments_raise(build: Callable[[], NoiseSchedule], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
