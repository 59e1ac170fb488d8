"""Samplers: the papers' equations, on data whose every distribution is known."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import CosineSchedule, LinearSchedule, NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.samplers import (
    Pairs,
    Spacing,
    Step,
    X0Prediction,
    ancestral,
    ddim,
    ddim_invert,
    diffuse,
    dpm_solver_pp,
    heun,
    step_variances,
    time_pairs,
)
from darkroom.protocols import X0Predictor

Sampler = Callable[..., Tensor]

LINEAR, SHORT = LinearSchedule(1000), LinearSchedule(50)
MEAN, STD = 0.3, 0.5  # of the data
STRANGE = [(49, 48), (48, 30), (30, 29), (29, 7), (7, 0), (0, -1)]
DETERMINISTIC = {
    "ddim": ddim,
    "dpm1": partial(dpm_solver_pp, order=1),
    "dpm2": partial(dpm_solver_pp, order=2),
    "dpm3": partial(dpm_solver_pp, order=3),
    "heun": heun,
}
STOCHASTIC = {
    "small": partial(ancestral, variance="small"),
    "large": partial(ancestral, variance="large"),
    "learned": partial(ancestral, variance="learned"),
    "eta": partial(ddim, eta=1.0),
    "churn": partial(heun, churn=10.0),
}
EVERY = DETERMINISTIC | STOCHASTIC


def gaussian(schedule: NoiseSchedule) -> X0Predictor:
    """E[x_0 | x_t] of values from N(MEAN, STD^2)."""

    def denoise(x: Tensor, t: float) -> X0Prediction:
        alpha, sigma = schedule.at(t)
        gain = alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2)
        return X0Prediction(MEAN + gain * (x - alpha * MEAN), torch.zeros_like(x))

    return denoise


def flow(x: Tensor, schedule: NoiseSchedule, t: float, to: float) -> Tensor:
    """Where the probability flow ODE of that data takes x from one time to another: quantiles stay quantiles."""
    (alpha, sigma), (alpha_to, sigma_to) = schedule.at(t), schedule.at(to)
    widths = math.hypot(alpha_to * STD, sigma_to) / math.hypot(alpha * STD, sigma)
    return alpha_to * MEAN + widths * (x - alpha * MEAN)


def curved(schedule: NoiseSchedule) -> X0Predictor:
    """A smooth denoiser that is none of a known distribution."""

    def denoise(x: Tensor, t: float) -> X0Prediction:
        alpha, sigma = schedule.at(t)
        return X0Prediction(torch.tanh(alpha * x + sigma * x.flip(-1)), torch.sin(9 * x))

    return denoise


def grid(*shape: int) -> Tensor:
    return torch.linspace(-2, 2, math.prod(shape), dtype=torch.float64).view(shape)


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [LINEAR, CosineSchedule(1000)], ids=["linear", "cosine"])
@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "log_snr", "karras"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 333, 1000])
def test_pairs_are_a_falling_chain_from_noise_to_the_picture(
    schedule: NoiseSchedule, spacing: Spacing, steps: int
) -> None:
    pairs = time_pairs(schedule, steps, spacing)
    assert len(pairs) == steps
    assert all(t > t_prev for t, t_prev in pairs)
    assert [t_prev for _, t_prev in pairs] == [*(t for t, _ in pairs[1:]), -1]
    alpha, sigma = schedule.at(pairs[0][0])
    if spacing in ("uniform", "quadratic"):
        assert pairs[0][0] == 999
        assert all(isinstance(t, int) for t, _ in pairs)
    else:
        assert sigma / alpha == pytest.approx(80)  # both schedules end noisier
        assert steps == 1 or pairs[-1] == (0, -1)


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
@pytest.mark.parametrize("total", [2, 10, 37, 1000])
def test_as_many_steps_as_there_are_is_every_step(spacing: Spacing, total: int) -> None:
    schedule = NoiseSchedule(torch.full((total,), 0.1))
    assert time_pairs(schedule, total, spacing) == [(t, t - 1) for t in range(total - 1, -1, -1)]


def test_spacings_are_even_in_what_they_say() -> None:
    assert [t for t, _ in time_pairs(LINEAR, 5)] == [999, 799, 599, 399, 199]
    assert [t for t, _ in time_pairs(LINEAR, 5, "quadratic")] == [999, 639, 359, 159, 39]
    for spacing, measure in {
        "log_snr": LINEAR.half_log_snr,
        "karras": lambda t: math.exp(-LINEAR.half_log_snr(t) / 7),
    }.items():
        levels = torch.tensor([measure(t) for t, _ in time_pairs(LINEAR, 9, spacing)], dtype=torch.float64)
        torch.testing.assert_close(levels.diff(), (levels[-1] - levels[0]).div(8).expand(8), rtol=1e-6, atol=0)


def test_a_schedule_less_noisy_than_edm_is_used_from_its_end() -> None:
    mild = LinearSchedule(1000, end=0.01)
    assert mild.half_log_snr(999) > -math.log(80)
    assert {time_pairs(mild, 9, spacing)[0][0] for spacing in ("log_snr", "karras")} == {999.0}


def test_steps_that_there_are_not_are_refused() -> None:
    for steps, spacing in [(0, "uniform"), (51, "uniform"), (51, "quadratic"), (0, "karras")]:
        with pytest.raises(UsageError, match=f"model.sampling.steps must be .*got {steps}"):
            time_pairs(SHORT, steps, spacing)
    assert len(time_pairs(SHORT, 51, "log_snr")) == 51


# --- one picture ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [time_pairs(SHORT, 50), time_pairs(SHORT, 7, "quadratic"), STRANGE])
@pytest.mark.parametrize("name", EVERY)
def test_a_denoiser_that_knows_the_picture_draws_it(name: str, pairs: Pairs) -> None:
    torch.manual_seed(0)
    picture = torch.rand(2, 3, 4, 4) * 2 - 1
    steps: list[Step] = []
    drawn = EVERY[name](
        lambda x, t: X0Prediction(picture, torch.zeros_like(x)),
        torch.randn(2, 3, 4, 4),
        pairs,
        SHORT,
        on_step=steps.append,
    )
    torch.testing.assert_close(drawn, picture, atol=1e-5, rtol=0)
    assert drawn.dtype == torch.float32
    # On the way x is that picture with noise; the one that began keeps its own in a deterministic sampler.
    if name in DETERMINISTIC:
        alpha, sigma = SHORT.at(pairs[0][1])
        first = steps[0].x - alpha * picture
        assert first.std().item() == pytest.approx(sigma, rel=0.2)


@pytest.mark.parametrize("name", EVERY)
def test_every_step_is_told_and_no_time_is_made_up(name: str) -> None:
    asked: list[float] = []
    steps: list[Step] = []
    denoise = curved(SHORT)

    def remembering(x: Tensor, t: float) -> X0Prediction:
        asked.append(t)
        return denoise(x, t)

    result = EVERY[name](remembering, torch.randn(1, 1, 4, 4), STRANGE, SHORT, on_step=steps.append)
    assert [(step.t, step.t_prev) for step in steps] == STRANGE
    assert [(step.index, step.count) for step in steps] == [(i, len(STRANGE)) for i in range(len(STRANGE))]
    assert torch.equal(steps[-1].x, result)
    torch.testing.assert_close(steps[-1].x, steps[-1].x0)
    if name == "heun":  # 2 n - 1
        assert asked == [time for t, t_prev in STRANGE for time in (t, t_prev) if time != -1]
    elif name != "churn":
        assert asked == [t for t, _ in STRANGE]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_picture_does_not_depend_on_its_batch(name: str) -> None:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))

    def draw(rows: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return STOCHASTIC[name](curved(SHORT), x[rows], STRANGE, SHORT, generator=generators)

    together = draw([0, 1, 2])
    torch.testing.assert_close(together, torch.cat([draw([row]) for row in range(3)]))
    torch.testing.assert_close(together, draw([1, 2, 0])[[2, 0, 1]])
    once, again = (
        STOCHASTIC[name](curved(SHORT), x, STRANGE, SHORT, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, together)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_draw_no_noise(name: str) -> None:
    state = torch.get_rng_state()
    DETERMINISTIC[name](curved(SHORT), grid(1, 1, 4, 4), STRANGE, SHORT)
    assert torch.equal(torch.get_rng_state(), state)


# --- stochastic samplers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [time_pairs(SHORT, 50), STRANGE])
def test_ddim_with_eta_1_is_the_ddpm_posterior(pairs: Pairs) -> None:
    x = grid(2, 1, 4, 4)
    ours, posterior = (
        sampler(curved(SHORT), x, pairs, SHORT, generator=torch.Generator().manual_seed(0))
        for sampler in (STOCHASTIC["eta"], STOCHASTIC["small"])
    )
    torch.testing.assert_close(ours, posterior, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("t", "t_prev"), [(30, 29), (1, 0), (49, 12)])
def test_ancestral_steps_have_the_moments_they_should(t: int, t_prev: int) -> None:
    alpha_bar, alpha_bar_prev = SHORT.at(t)[0] ** 2, SHORT.at(t_prev)[0] ** 2
    beta = 1 - alpha_bar / alpha_bar_prev  # equation 7, of a schedule of these abars
    beta_tilde = (1 - alpha_bar_prev) / (1 - alpha_bar) * beta
    assert step_variances(SHORT, t, t_prev) == pytest.approx((beta, beta_tilde))
    if t - t_prev == 1:
        assert beta == pytest.approx(0.002 + t * (0.4 - 0.002) / 49)
    mean = math.sqrt(alpha_bar_prev) * beta / (1 - alpha_bar) * 0.5
    mean += math.sqrt(1 - beta) * (1 - alpha_bar_prev) / (1 - alpha_bar) * -0.7
    x = torch.full((1, 1, 400, 400), -0.7)
    for variance, v, expected in [
        ("small", 0.0, beta_tilde),
        ("large", 0.0, beta),
        ("learned", -1.0, beta_tilde),
        ("learned", 1.0, beta),
        ("learned", 0.4, beta**0.7 * beta_tilde**0.3),
    ]:
        denoised = X0Prediction(torch.full_like(x, 0.5), torch.full_like(x, v))
        drawn = ancestral(
            lambda x, t, denoised=denoised: denoised,
            x,
            [(t, t_prev)],
            SHORT,
            variance=variance,
            generator=torch.Generator().manual_seed(0),
        )
        assert drawn.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(expected) / 400)
        assert drawn.std().item() == pytest.approx(math.sqrt(expected), rel=0.01)


def test_fewer_steps_are_the_schedule_of_their_abars() -> None:
    pairs = [(49, 30), (30, 11), (11, 4), (4, -1)]
    kept = [SHORT.at(t)[0] ** 2 for t, _ in reversed(pairs)]
    respaced = NoiseSchedule(1 - torch.tensor([now / before for now, before in zip(kept, [1.0, *kept], strict=False)]))
    index = {4: 0, 11: 1, 30: 2, 49: 3}
    for sampler in STOCHASTIC.values():
        if sampler is STOCHASTIC["churn"]:
            continue  # has times between, which are others
        few = sampler(curved(SHORT), grid(1, 1, 4, 4), pairs, SHORT, generator=torch.Generator().manual_seed(0))
        whole = sampler(
            curved(respaced),
            grid(1, 1, 4, 4),
            [(index[t], index.get(t_prev, -1)) for t, t_prev in pairs],
            respaced,
            generator=torch.Generator().manual_seed(0),
        )
        torch.testing.assert_close(few, whole, atol=1e-6, rtol=0)


def test_stochastic_samplers_draw_the_data() -> None:
    schedule = LinearSchedule(200)
    x, widths = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0)), {}
    for name in ("small", "large", "eta", "churn"):
        drawn = STOCHASTIC[name](
            gaussian(schedule), x, time_pairs(schedule, 200), schedule, generator=torch.Generator().manual_seed(1)
        )
        assert drawn.mean().item() == pytest.approx(MEAN, abs=0.015)
        assert drawn.std().item() == pytest.approx(STD, rel=0.035)
        widths[name] = drawn.std().item()
    # Right for one picture, and for noise: the data are between (Ho et al. 2020, section 3.2).
    assert widths["small"] < 0.98 * STD < STD < widths["large"]


def test_a_variance_that_nobody_learned_is_refused() -> None:
    with pytest.raises(UsageError, match="model predicts none"):
        ancestral(lambda x, t: X0Prediction(x), torch.zeros(1, 1, 2, 2), STRANGE, SHORT, variance="learned")
    for eta in (-0.1, 1.1):
        with pytest.raises(UsageError, match="model.sampling.eta"):
            ddim(curved(SHORT), torch.zeros(1, 1, 2, 2), STRANGE, SHORT, eta=eta)


def test_diffuse_is_the_forward_process() -> None:
    x = torch.full((1, 1, 300, 300), 0.8)
    generator = torch.Generator().manual_seed(0)
    later = diffuse(diffuse(x, SHORT, -1, 12, generator), SHORT, 12, 30, generator)
    alpha, sigma = SHORT.at(30)
    assert later.mean().item() == pytest.approx(0.8 * alpha, abs=4 * sigma / 300)
    assert later.std().item() == pytest.approx(sigma, rel=0.01)
    assert diffuse(x, SHORT, 12, 12) is x
    assert diffuse(x, SHORT, -1, 30, scale=0.5).std().item() == pytest.approx(sigma / 2, rel=0.01)


# --- the probability flow ODE -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm1", 1), ("dpm2", 2), ("dpm3", 3), ("heun", 2)])
@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_samplers_converge_to_the_flow_at_their_order(name: str, order: int, spacing: Spacing) -> None:
    x, errors = grid(1, 1, 3, 3), []
    for steps in (40, 80, 160):
        pairs = time_pairs(LINEAR, steps, spacing)
        truth = gaussian(LINEAR)(flow(x, LINEAR, pairs[0][0], 0), 0).x0
        errors.append((DETERMINISTIC[name](gaussian(LINEAR), x, pairs, LINEAR) - truth).abs().max().item())
    slope = math.log2(errors[-2] / errors[-1])
    assert slope > order - 0.1
    assert slope < order + (1.2 if order == 3 else 0.3)  # the third-order term may be small on such data
    assert errors[-1] < {1: 0.05, 2: 1e-3, 3: 1e-4}[order]


def test_the_first_order_of_all_is_ddim() -> None:
    x, denoise = grid(1, 1, 4, 4), curved(SHORT)
    expected = ddim(denoise, x, STRANGE, SHORT)
    torch.testing.assert_close(dpm_solver_pp(denoise, x, STRANGE, SHORT, order=1), expected)
    one = [STRANGE[-1]]
    torch.testing.assert_close(heun(denoise, x, one, SHORT), ddim(denoise, x, one, SHORT))


def test_heun_is_edms_algorithm_in_its_own_coordinates() -> None:
    denoise, x = curved(SHORT), grid(1, 1, 4, 4)
    alphas = {t: SHORT.at(t)[0] for t in range(-1, 50)}
    noise = {t: SHORT.at(t)[1] / SHORT.at(t)[0] for t in range(-1, 50)}
    y = x / alphas[49]
    for t, t_prev in STRANGE:
        slope = (y - denoise(alphas[t] * y, t).x0) / noise[t]
        euler = y + (noise[t_prev] - noise[t]) * slope
        if t_prev != -1:
            after = (euler - denoise(alphas[t_prev] * euler, t_prev).x0) / noise[t_prev]
            euler = y + (noise[t_prev] - noise[t]) * (slope + after) / 2
        y = euler
    torch.testing.assert_close(heun(denoise, x, STRANGE, SHORT), y)


def test_churn_adds_noise_where_it_may_and_within_the_schedule() -> None:
    asked: list[float] = []

    def remembering(x: Tensor, t: float) -> X0Prediction:
        asked.append(t)
        return curved(SHORT)(x, t)

    pairs, x = [(49, 30), (30, 10), (10, -1)], grid(1, 1, 2, 2)
    heun(remembering, x, pairs, SHORT, churn=0.3)
    at_first, at_second, at_last = asked[0], asked[2], asked[4]
    assert at_first == 49
    assert SHORT.half_log_snr(at_second) == pytest.approx(SHORT.half_log_snr(30) - math.log(1.1))
    assert SHORT.half_log_snr(at_last) == pytest.approx(SHORT.half_log_snr(10) - math.log(1.1))
    nowhere = heun(curved(SHORT), x, pairs, SHORT, churn=0.3, churn_range=(0.0, 1e-6))
    assert torch.equal(nowhere, heun(curved(SHORT), x, pairs, SHORT))


def test_inversion_finds_the_noise_and_better_with_more_steps() -> None:
    picture, errors = MEAN + grid(1, 1, 3, 3) / 2, []
    for steps in (10, 40, 160):
        pairs = time_pairs(LINEAR, steps)
        told: list[Step] = []
        noise = ddim_invert(gaussian(LINEAR), picture, pairs, LINEAR, on_step=told.append)
        again = ddim(gaussian(LINEAR), noise, pairs, LINEAR)
        errors.append((again - picture).abs().max().item())
        assert [(step.t_prev, step.t) for step in reversed(told)] == pairs
        assert torch.equal(told[-1].x, noise)
    assert errors[0] > 2.5 * errors[1] > 2.5**2 * errors[2]
    assert errors[2] < 0.04
    assert (noise - flow(picture, LINEAR, -1, 999)).abs().max() < 0.04  # from where the flow comes


# --- beside another implementation ------------------------------------------------------------------------------------

TIMES = [951, 801, 640, 333, 127, 20, 0]
CHAIN = list(zip(TIMES, [*TIMES[1:], -1], strict=True))


def betas() -> list[float]:
    return torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).tolist()


def through(scheduler: object, x: Tensor, **options: object) -> Tensor:
    """x taken through all of a scheduler's times, with the same denoiser."""
    for t in scheduler.timesteps:
        x0 = curved(LINEAR)(x, int(t)).x0
        x = scheduler.step(x0, t, x, **options).prev_sample
    return x


def test_the_same_as_diffusers_ddpm() -> None:
    diffusers = pytest.importorskip("diffusers")
    for variance, theirs in [("small", "fixed_small"), ("large", "fixed_large"), ("learned", "learned_range")]:
        scheduler = diffusers.DDPMScheduler(
            trained_betas=betas(), variance_type=theirs, clip_sample=False, prediction_type="sample"
        )
        scheduler.set_timesteps(timesteps=TIMES)
        x, noise = grid(1, 1, 4, 4).float(), [torch.Generator().manual_seed(0) for _ in range(2)]
        ours = ancestral(curved(LINEAR), x, CHAIN, LINEAR, variance=variance, generator=noise[0])
        for t in TIMES:
            denoised = curved(LINEAR)(x, t)
            said = torch.cat(denoised, 1) if variance == "learned" else denoised.x0
            x = scheduler.step(said, t, x, generator=noise[1]).prev_sample
        torch.testing.assert_close(ours, x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_the_same_as_diffusers_ddim(eta: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        trained_betas=betas(),
        clip_sample=False,
        prediction_type="sample",
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(10)  # it works t_prev out from the number of steps, and so knows even ones only
    pairs = time_pairs(LINEAR, 10)
    assert [t for t, _ in pairs] == scheduler.timesteps.tolist()
    x = grid(1, 1, 4, 4).float()
    ours = ddim(curved(LINEAR), x, pairs, LINEAR, eta=eta, generator=torch.Generator().manual_seed(0))
    theirs = through(scheduler, x, eta=eta, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("order", [1, 2])  # their third order leaves out a factor 2, and converges like a second
def test_the_same_as_diffusers_dpm_solver(order: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=betas(), solver_order=order, prediction_type="sample"
    )
    scheduler.set_timesteps(timesteps=TIMES)
    x = grid(1, 1, 4, 4).float()
    ours = dpm_solver_pp(curved(LINEAR), x, CHAIN, LINEAR, order=order)
    torch.testing.assert_close(ours, through(scheduler, x), atol=1e-4, rtol=0)
