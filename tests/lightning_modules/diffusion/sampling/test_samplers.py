"""Samplers: equations of the papers on data with known distributions."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import CosineSchedule, LinearSchedule, NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.samplers import (
    Step,
    X0Prediction,
    ancestral,
    ddim,
    ddim_invert,
    diffuse,
    dpm_solver_pp,
    heun,
    step_variances,
)
from darkroom.lightning_modules.diffusion.sampling.times import Pairs, Spacing, time_pairs
from darkroom.protocols import X0Predictor

Sampler = Callable[..., Tensor]

LINEAR, SHORT = LinearSchedule(1000), LinearSchedule(50)
MEAN, STD = 0.3, 0.5  # of the data
UNEVEN_PAIRS = [(49, 48), (48, 30), (30, 29), (29, 7), (7, 0), (0, -1)]
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
    """Return E[x_0 | x_t] of values from N(MEAN, STD^2)."""

    def denoise(x: Tensor, t: float) -> X0Prediction:
        alpha, sigma = schedule.at(t)
        gain = alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2)
        return X0Prediction(MEAN + gain * (x - alpha * MEAN), torch.zeros_like(x))

    return denoise


def flow(x: Tensor, schedule: NoiseSchedule, t: float, to: float) -> Tensor:
    """Solve the probability flow ODE of that data from one time to another, which preserves quantiles."""
    (alpha, sigma), (alpha_to, sigma_to) = schedule.at(t), schedule.at(to)
    widths = math.hypot(alpha_to * STD, sigma_to) / math.hypot(alpha * STD, sigma)
    return alpha_to * MEAN + widths * (x - alpha * MEAN)


def smooth_denoiser(schedule: NoiseSchedule) -> X0Predictor:
    """Return a smooth denoiser without a known distribution."""

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
def test_time_pairs_decrease_from_noise_to_image(schedule: NoiseSchedule, spacing: Spacing, steps: int) -> None:
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
def test_all_steps_are_used_at_full_length(spacing: Spacing, total: int) -> None:
    schedule = NoiseSchedule(torch.full((total,), 0.1))
    assert time_pairs(schedule, total, spacing) == [(t, t - 1) for t in range(total - 1, -1, -1)]


def test_spacings_are_even_in_their_measure() -> None:
    assert [t for t, _ in time_pairs(LINEAR, 5)] == [999, 799, 599, 399, 199]
    assert [t for t, _ in time_pairs(LINEAR, 5, "quadratic")] == [999, 639, 359, 159, 39]
    for spacing, measure in {
        "log_snr": LINEAR.half_log_snr,
        "karras": lambda t: math.exp(-LINEAR.half_log_snr(t) / 7),
    }.items():
        levels = torch.tensor([measure(t) for t, _ in time_pairs(LINEAR, 9, spacing)], dtype=torch.float64)
        torch.testing.assert_close(levels.diff(), (levels[-1] - levels[0]).div(8).expand(8), rtol=1e-6, atol=0)


def test_schedule_with_less_noise_than_edm_starts_at_its_end() -> None:
    mild = LinearSchedule(1000, end=0.01)
    assert mild.half_log_snr(999) > -math.log(80)
    assert {time_pairs(mild, 9, spacing)[0][0] for spacing in ("log_snr", "karras")} == {999.0}


def test_invalid_number_of_steps_raises() -> None:
    for steps, spacing in [(0, "uniform"), (51, "uniform"), (51, "quadratic"), (0, "karras")]:
        with pytest.raises(UsageError, match=f"model.sampling.steps must be .*got {steps}"):
            time_pairs(SHORT, steps, spacing)
    assert len(time_pairs(SHORT, 51, "log_snr")) == 51


# --- exact denoisers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [time_pairs(SHORT, 50), time_pairs(SHORT, 7, "quadratic"), UNEVEN_PAIRS])
@pytest.mark.parametrize("name", EVERY)
def test_exact_denoiser_recovers_image(name: str, pairs: Pairs) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 4, 4) * 2 - 1
    steps: list[Step] = []
    samples = EVERY[name](
        lambda x, t: X0Prediction(image, torch.zeros_like(x)),
        torch.randn(2, 3, 4, 4),
        pairs,
        SHORT,
        on_step=steps.append,
    )
    torch.testing.assert_close(samples, image, atol=1e-5, rtol=0)
    assert samples.dtype == torch.float32
    # x is the image with noise at every step; deterministic samplers keep the initial noise.
    if name in DETERMINISTIC:
        alpha, sigma = SHORT.at(pairs[0][1])
        first = steps[0].x - alpha * image
        assert first.std().item() == pytest.approx(sigma, rel=0.2)


@pytest.mark.parametrize("name", EVERY)
def test_every_step_is_reported_with_its_times(name: str) -> None:
    asked: list[float] = []
    steps: list[Step] = []
    denoise = smooth_denoiser(SHORT)

    def recording_denoiser(x: Tensor, t: float) -> X0Prediction:
        asked.append(t)
        return denoise(x, t)

    result = EVERY[name](recording_denoiser, torch.randn(1, 1, 4, 4), UNEVEN_PAIRS, SHORT, on_step=steps.append)
    assert [(step.t, step.t_prev) for step in steps] == UNEVEN_PAIRS
    assert [(step.index, step.count) for step in steps] == [(i, len(UNEVEN_PAIRS)) for i in range(len(UNEVEN_PAIRS))]
    assert torch.equal(steps[-1].x, result)
    torch.testing.assert_close(steps[-1].x, steps[-1].x0)
    if name == "heun":  # 2 n - 1
        assert asked == [time for t, t_prev in UNEVEN_PAIRS for time in (t, t_prev) if time != -1]
    elif name != "churn":
        assert asked == [t for t, _ in UNEVEN_PAIRS]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_samples_do_not_depend_on_batch(name: str) -> None:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))

    def draw(rows: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return STOCHASTIC[name](smooth_denoiser(SHORT), x[rows], UNEVEN_PAIRS, SHORT, generator=generators)

    together = draw([0, 1, 2])
    torch.testing.assert_close(together, torch.cat([draw([row]) for row in range(3)]))
    torch.testing.assert_close(together, draw([1, 2, 0])[[2, 0, 1]])
    once, again = (
        STOCHASTIC[name](smooth_denoiser(SHORT), x, UNEVEN_PAIRS, SHORT, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, together)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_use_no_noise(name: str) -> None:
    state = torch.get_rng_state()
    DETERMINISTIC[name](smooth_denoiser(SHORT), grid(1, 1, 4, 4), UNEVEN_PAIRS, SHORT)
    assert torch.equal(torch.get_rng_state(), state)


# --- stochastic samplers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [time_pairs(SHORT, 50), UNEVEN_PAIRS])
def test_ddim_with_eta_1_is_ddpm_posterior(pairs: Pairs) -> None:
    x = grid(2, 1, 4, 4)
    ours, posterior = (
        sampler(smooth_denoiser(SHORT), x, pairs, SHORT, generator=torch.Generator().manual_seed(0))
        for sampler in (STOCHASTIC["eta"], STOCHASTIC["small"])
    )
    torch.testing.assert_close(ours, posterior, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("t", "t_prev"), [(30, 29), (1, 0), (49, 12)])
def test_ancestral_steps_have_stated_moments(t: int, t_prev: int) -> None:
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
        samples = ancestral(
            lambda x, t, denoised=denoised: denoised,
            x,
            [(t, t_prev)],
            SHORT,
            variance=variance,
            generator=torch.Generator().manual_seed(0),
        )
        assert samples.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(expected) / 400)
        assert samples.std().item() == pytest.approx(math.sqrt(expected), rel=0.01)


def test_subset_of_steps_equals_respaced_schedule() -> None:
    pairs = [(49, 30), (30, 11), (11, 4), (4, -1)]
    kept = [SHORT.at(t)[0] ** 2 for t, _ in reversed(pairs)]
    respaced = NoiseSchedule(1 - torch.tensor([now / before for now, before in zip(kept, [1.0, *kept], strict=False)]))
    index = {4: 0, 11: 1, 30: 2, 49: 3}
    for sampler in STOCHASTIC.values():
        if sampler is STOCHASTIC["churn"]:
            continue  # evaluates intermediate times, which differ
        few = sampler(
            smooth_denoiser(SHORT), grid(1, 1, 4, 4), pairs, SHORT, generator=torch.Generator().manual_seed(0)
        )
        whole = sampler(
            smooth_denoiser(respaced),
            grid(1, 1, 4, 4),
            [(index[t], index.get(t_prev, -1)) for t, t_prev in pairs],
            respaced,
            generator=torch.Generator().manual_seed(0),
        )
        torch.testing.assert_close(few, whole, atol=1e-6, rtol=0)


def test_stochastic_samplers_match_data_distribution() -> None:
    schedule = LinearSchedule(200)
    x, widths = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0)), {}
    for name in ("small", "large", "eta", "churn"):
        samples = STOCHASTIC[name](
            gaussian(schedule), x, time_pairs(schedule, 200), schedule, generator=torch.Generator().manual_seed(1)
        )
        assert samples.mean().item() == pytest.approx(MEAN, abs=0.015)
        assert samples.std().item() == pytest.approx(STD, rel=0.035)
        widths[name] = samples.std().item()
    # Optimal for a single image and for noise; the data are in between (Ho et al. 2020, section 3.2).
    assert widths["small"] < 0.98 * STD < STD < widths["large"]


def test_missing_learned_variance_and_invalid_eta_raise() -> None:
    with pytest.raises(UsageError, match="model predicts no variance"):
        ancestral(lambda x, t: X0Prediction(x), torch.zeros(1, 1, 2, 2), UNEVEN_PAIRS, SHORT, variance="learned")
    for eta in (-0.1, 1.1):
        with pytest.raises(UsageError, match="model.sampling.eta"):
            ddim(smooth_denoiser(SHORT), torch.zeros(1, 1, 2, 2), UNEVEN_PAIRS, SHORT, eta=eta)


def test_diffuse_is_forward_process() -> None:
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
def test_samplers_converge_at_their_order(name: str, order: int, spacing: Spacing) -> None:
    x, errors = grid(1, 1, 3, 3), []
    for steps in (40, 80, 160):
        pairs = time_pairs(LINEAR, steps, spacing)
        truth = gaussian(LINEAR)(flow(x, LINEAR, pairs[0][0], 0), 0).x0
        errors.append((DETERMINISTIC[name](gaussian(LINEAR), x, pairs, LINEAR) - truth).abs().max().item())
    slope = math.log2(errors[-2] / errors[-1])
    assert slope > order - 0.1
    assert slope < order + (1.2 if order == 3 else 0.3)  # the third-order error may be small on such data
    assert errors[-1] < {1: 0.05, 2: 1e-3, 3: 1e-4}[order]


def test_first_order_samplers_equal_ddim() -> None:
    x, denoise = grid(1, 1, 4, 4), smooth_denoiser(SHORT)
    expected = ddim(denoise, x, UNEVEN_PAIRS, SHORT)
    torch.testing.assert_close(dpm_solver_pp(denoise, x, UNEVEN_PAIRS, SHORT, order=1), expected)
    one = [UNEVEN_PAIRS[-1]]
    torch.testing.assert_close(heun(denoise, x, one, SHORT), ddim(denoise, x, one, SHORT))


def test_heun_matches_edm_algorithm() -> None:
    denoise, x = smooth_denoiser(SHORT), grid(1, 1, 4, 4)
    alphas = {t: SHORT.at(t)[0] for t in range(-1, 50)}
    noise = {t: SHORT.at(t)[1] / SHORT.at(t)[0] for t in range(-1, 50)}
    y = x / alphas[49]
    for t, t_prev in UNEVEN_PAIRS:
        slope = (y - denoise(alphas[t] * y, t).x0) / noise[t]
        euler = y + (noise[t_prev] - noise[t]) * slope
        if t_prev != -1:
            after = (euler - denoise(alphas[t_prev] * euler, t_prev).x0) / noise[t_prev]
            euler = y + (noise[t_prev] - noise[t]) * (slope + after) / 2
        y = euler
    torch.testing.assert_close(heun(denoise, x, UNEVEN_PAIRS, SHORT), y)


def test_churn_adds_noise_within_its_range() -> None:
    asked: list[float] = []

    def recording_denoiser(x: Tensor, t: float) -> X0Prediction:
        asked.append(t)
        return smooth_denoiser(SHORT)(x, t)

    pairs, x = [(49, 30), (30, 10), (10, -1)], grid(1, 1, 2, 2)
    heun(recording_denoiser, x, pairs, SHORT, churn=0.3)
    at_first, at_second, at_last = asked[0], asked[2], asked[4]
    assert at_first == 49
    assert SHORT.half_log_snr(at_second) == pytest.approx(SHORT.half_log_snr(30) - math.log(1.1))
    assert SHORT.half_log_snr(at_last) == pytest.approx(SHORT.half_log_snr(10) - math.log(1.1))
    nowhere = heun(smooth_denoiser(SHORT), x, pairs, SHORT, churn=0.3, churn_range=(0.0, 1e-6))
    assert torch.equal(nowhere, heun(smooth_denoiser(SHORT), x, pairs, SHORT))


def test_inversion_converges_to_noise() -> None:
    image, errors = MEAN + grid(1, 1, 3, 3) / 2, []
    for steps in (10, 40, 160):
        pairs = time_pairs(LINEAR, steps)
        steps_seen: list[Step] = []
        noise = ddim_invert(gaussian(LINEAR), image, pairs, LINEAR, on_step=steps_seen.append)
        again = ddim(gaussian(LINEAR), noise, pairs, LINEAR)
        errors.append((again - image).abs().max().item())
        assert [(step.t_prev, step.t) for step in reversed(steps_seen)] == pairs
        assert torch.equal(steps_seen[-1].x, noise)
    assert errors[0] > 2.5 * errors[1] > 2.5**2 * errors[2]
    assert errors[2] < 0.04
    assert (noise - flow(image, LINEAR, -1, 999)).abs().max() < 0.04  # the start of the flow


# --- equality with diffusers ------------------------------------------------------------------------------------------

TIMES = [951, 801, 640, 333, 127, 20, 0]
CHAIN = list(zip(TIMES, [*TIMES[1:], -1], strict=True))


def betas() -> list[float]:
    return torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).tolist()


def run_scheduler(scheduler: object, x: Tensor, **options: object) -> Tensor:
    """Run a scheduler of diffusers over all its times with the same denoiser."""
    for t in scheduler.timesteps:
        x0 = smooth_denoiser(LINEAR)(x, int(t)).x0
        x = scheduler.step(x0, t, x, **options).prev_sample
    return x


def test_ancestral_matches_diffusers_ddpm() -> None:
    diffusers = pytest.importorskip("diffusers")
    for variance, theirs in [("small", "fixed_small"), ("large", "fixed_large"), ("learned", "learned_range")]:
        scheduler = diffusers.DDPMScheduler(
            trained_betas=betas(), variance_type=theirs, clip_sample=False, prediction_type="sample"
        )
        scheduler.set_timesteps(timesteps=TIMES)
        x, noise = grid(1, 1, 4, 4).float(), [torch.Generator().manual_seed(0) for _ in range(2)]
        ours = ancestral(smooth_denoiser(LINEAR), x, CHAIN, LINEAR, variance=variance, generator=noise[0])
        for t in TIMES:
            denoised = smooth_denoiser(LINEAR)(x, t)
            message = torch.cat(denoised, 1) if variance == "learned" else denoised.x0
            x = scheduler.step(message, t, x, generator=noise[1]).prev_sample
        torch.testing.assert_close(ours, x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim_matches_diffusers_ddim(eta: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        trained_betas=betas(),
        clip_sample=False,
        prediction_type="sample",
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(10)  # it computes t_prev from the number of steps, so only even spacing works
    pairs = time_pairs(LINEAR, 10)
    assert [t for t, _ in pairs] == scheduler.timesteps.tolist()
    x = grid(1, 1, 4, 4).float()
    ours = ddim(smooth_denoiser(LINEAR), x, pairs, LINEAR, eta=eta, generator=torch.Generator().manual_seed(0))
    theirs = run_scheduler(scheduler, x, eta=eta, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "order", [1, 2]
)  # third order in diffusers lacks a factor of 2 and converges like second order
def test_dpm_solver_matches_diffusers_dpm_solver(order: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=betas(), solver_order=order, prediction_type="sample"
    )
    scheduler.set_timesteps(timesteps=TIMES)
    x = grid(1, 1, 4, 4).float()
    ours = dpm_solver_pp(smooth_denoiser(LINEAR), x, CHAIN, LINEAR, order=order)
    torch.testing.assert_close(ours, run_scheduler(scheduler, x), atol=1e-4, rtol=0)
