"""Samplers of rectified flow, EDM and zero terminal SNR: closed forms of normal data."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.continuous_schedules import EDMSchedule, RectifiedFlow
from darkroom.lightning_modules.diffusion.objective.likelihood import posterior
from darkroom.lightning_modules.diffusion.objective.noise_schedules import (
    CosineSchedule,
    LinearSchedule,
    NoiseSchedule,
    ZeroTerminalSNR,
)
from darkroom.lightning_modules.diffusion.objective.parameterization import Parameterization
from darkroom.lightning_modules.diffusion.sampling.flow_heun import flow_heun
from darkroom.lightning_modules.diffusion.sampling.inpainting import repaint
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import (
    Step,
    X0Prediction,
    ancestral,
    ddim,
    ddim_invert,
    diffuse,
    dpm_solver_pp,
    heun,
    large_variance,
    step_variances,
)
from darkroom.lightning_modules.diffusion.sampling.times import Spacing, shifted_pairs, time_pairs
from darkroom.protocols import X0Predictor

FLOW, EDM = RectifiedFlow(1000), EDMSchedule(1000)
ZERO, COSINE = ZeroTerminalSNR(LinearSchedule(1000)), ZeroTerminalSNR(CosineSchedule(50))
MEAN = torch.tensor([0.3, -0.4], dtype=torch.float64)
ROOT = torch.tensor([[0.5, 0.0], [0.3, 0.2]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T  # of the data, N(MEAN, COVARIANCE)
VALUES, VECTORS = torch.linalg.eigh(COVARIANCE)
schedules = pytest.mark.parametrize("schedule", [FLOW, EDM, ZERO], ids=["flow", "edm", "zero"])


def rotate(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the two channels of (B, 2, 1, 1) by a matrix."""
    return torch.einsum("ij,bjhw->bihw", matrix, x.double())


def optimal(schedule: NoiseSchedule) -> X0Predictor:
    """Return E[x_0 | x_t] of the data."""

    def denoise(x: Tensor, t: float) -> X0Prediction:
        alpha, sigma = schedule.at(t)
        gain = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double())
        mean = MEAN[:, None, None]
        return X0Prediction(mean + rotate(x - alpha * mean, gain), torch.zeros_like(x))

    return denoise


def solve(x: Tensor, schedule: NoiseSchedule, t: float, to: float) -> Tensor:
    """Solve the probability flow ODE of the data exactly: it scales every principal component by its deviation."""
    (alpha, sigma), (alpha_to, sigma_to) = schedule.at(t), schedule.at(to)
    mean = MEAN[:, None, None]
    ratio = (alpha_to**2 * VALUES + sigma_to**2).sqrt() / (alpha**2 * VALUES + sigma**2).sqrt()
    return alpha_to * mean + rotate(x - alpha * mean, VECTORS @ ratio.diag() @ VECTORS.T)


def starts(count: int = 16) -> Tensor:
    return torch.randn(count, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# --- Euler and Heun ---------------------------------------------------------------------------------------------------


def test_ddim_is_euler_of_the_flow() -> None:
    """Check x + (s_prev - s) u for u = eps - x_0, with the output of a network that predicts u."""
    kind, pairs, x = Parameterization("flow"), time_pairs(FLOW, 7), starts().float()

    def velocity(x: Tensor, t: float) -> Tensor:
        return torch.tanh(x.flip(1) * 2) + t / 1000

    euler = x
    for t, t_prev in pairs:
        euler = euler + (t_prev - t) / 1000 * velocity(euler, t)
    sampled = ddim(lambda x, t: X0Prediction(kind.to_x0(velocity(x, t), x, *FLOW.at(t))), x, pairs, FLOW)
    torch.testing.assert_close(sampled, euler, atol=1e-5, rtol=0)


def test_flow_heun_is_heun_of_the_flow() -> None:
    kind, pairs, x = Parameterization("flow"), [(999, 499), (499, 249.5), (249.5, -1)], starts().float()

    def velocity(x: Tensor, t: float) -> Tensor:
        return torch.tanh(x.flip(1) * 2) + t / 1000

    expected, steps = x, list[Step]()
    for t, t_prev in pairs:
        step, slope = (t_prev - t) / 1000, velocity(expected, t)
        euler = expected + step * slope
        expected = euler if t_prev == -1 else expected + step * (slope + velocity(euler, t_prev)) / 2
    denoise = lambda x, t: X0Prediction(kind.to_x0(velocity(x, t), x, *FLOW.at(t)))  # noqa: E731
    sampled = flow_heun(denoise, x, pairs, FLOW, on_step=steps.append)
    torch.testing.assert_close(sampled, expected, atol=1e-5, rtol=0)
    assert [(step.t, step.t_prev) for step in steps] == pairs
    assert torch.equal(steps[-1].x, sampled)


def test_straight_flow_is_exact_in_one_step() -> None:
    """Check the property that gives rectified flow its name: for a single image all paths are straight."""
    image = torch.rand(1, 2, 1, 1, dtype=torch.float64)
    for sampler in (ddim, flow_heun):
        for steps in (1, 3):
            found = sampler(lambda x, t: X0Prediction(image.expand_as(x)), starts(), time_pairs(FLOW, steps), FLOW)
            torch.testing.assert_close(found, image.expand_as(found))


@pytest.mark.parametrize(
    ("sampler", "order", "schedule", "spacing"),
    [
        (ddim, 1, FLOW, "uniform"),
        (flow_heun, 2, FLOW, "uniform"),
        (ddim, 1, EDM, "karras"),
        (heun, 2, EDM, "karras"),
        (flow_heun, 2, EDM, "karras"),
        (ddim, 1, ZERO, "uniform"),
        (flow_heun, 2, ZERO, "karras"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_samplers_converge_at_their_order(
    sampler: Callable[..., Tensor], order: int, schedule: NoiseSchedule, spacing: Spacing
) -> None:
    x, errors = starts(), []
    for steps in (50, 100, 200):
        pairs = time_pairs(schedule, steps, spacing)
        if spacing == "karras":  # it ends with a step from the first level, which is not shorter for more steps
            pairs = pairs[:-1]
        truth = solve(x, schedule, pairs[0][0], pairs[-1][1])
        errors.append((sampler(optimal(schedule), x, pairs, schedule) - truth).abs().max())
    assert math.log2(errors[-2] / errors[-1]) > order - 0.25
    assert errors[-1] < {1: 0.03, 2: 3e-3}[order]


@pytest.mark.parametrize(
    ("sampling", "schedule"),
    [
        ({"sampler": "ddim", "steps": 200}, FLOW),
        ({"sampler": "flow_heun", "steps": 40}, FLOW),
        ({"sampler": "flow_heun", "steps": 40, "shift": 3.0}, FLOW),
        ({"sampler": "dpm_solver++", "steps": 30}, FLOW),
        ({"sampler": "ancestral", "steps": 400, "variance": "small"}, FLOW),
        ({"sampler": "ancestral", "steps": 400}, FLOW),
        ({"sampler": "ddim", "steps": 400, "eta": 1.0}, FLOW),
        ({"sampler": "heun", "steps": 40}, EDM),
        ({"sampler": "heun", "steps": 60, "churn": 20.0}, EDM),
        ({"sampler": "ancestral", "steps": 400}, EDM),
        ({"sampler": "ddim", "steps": 200}, ZERO),
        ({"sampler": "flow_heun", "steps": 100}, ZERO),
        ({"sampler": "dpm_solver++", "steps": 30}, ZERO),
        ({"sampler": "ancestral", "steps": 400}, ZERO),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else type(value).__name__,
)
def test_samples_have_mean_and_covariance_of_data(sampling: dict, schedule: NoiseSchedule) -> None:
    generator = torch.Generator().manual_seed(1)
    samples = Sampling(**sampling).run(optimal(schedule), starts(20_000), schedule, generator)[..., 0, 0]
    torch.testing.assert_close(samples.mean(0), MEAN, atol=0.015, rtol=0)
    torch.testing.assert_close(samples.T.cov(), COVARIANCE, atol=0.012, rtol=0)


@schedules
def test_inversion_converges_to_noise(schedule: NoiseSchedule) -> None:
    images, errors = MEAN[:, None, None] + rotate(starts(), ROOT), []
    for steps in (50, 200):
        pairs = time_pairs(schedule, steps)
        noise = ddim_invert(optimal(schedule), images, pairs, schedule)
        errors.append((ddim(optimal(schedule), noise, pairs, schedule) - images).abs().max())
    assert errors[1] < errors[0] / 2.5
    assert errors[1] < 0.1


# --- steps of the forward process -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "t_prev"), [(999, 500), (600.5, 3), (20, -1)])
def test_steps_of_straight_path_match_joint_normal(t: float, t_prev: float) -> None:
    (alpha, sigma), (alpha_prev, sigma_prev) = FLOW.at(t), FLOW.at(t_prev)
    kept = alpha / alpha_prev
    beta, small = step_variances(FLOW, t, t_prev)
    assert beta == pytest.approx(sigma**2 - kept**2 * sigma_prev**2)
    assert small == pytest.approx(sigma_prev**2 - (kept * sigma_prev**2) ** 2 / sigma**2)  # Var[x_prev | x_t, x_0]
    power_prev = alpha_prev**2 + sigma_prev**2
    large = power_prev - (kept * power_prev) ** 2 / (alpha**2 + sigma**2)  # Var[x_prev | x_t] for x_0 ~ N(0, 1)
    assert large_variance(FLOW, t, t_prev) == pytest.approx(large)
    x = torch.full((1, 1, 300, 300), 0.8)
    later = diffuse(x, FLOW, t_prev, t, torch.Generator().manual_seed(0))
    assert later.mean().item() == pytest.approx(0.8 * kept, abs=4 * math.sqrt(beta) / 300)
    assert later.std().item() == pytest.approx(math.sqrt(beta), rel=0.01)


@pytest.mark.parametrize("schedule", [RectifiedFlow(50), EDMSchedule(50), COSINE], ids=["flow", "edm", "zero"])
def test_posterior_matches_conditional_normal(schedule: NoiseSchedule) -> None:
    for t in (1, 20, 49):
        (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t - 1)
        covariance = alpha / alpha_prev * sigma_prev**2
        x0, x_t = torch.tensor([0.7, -0.2]), torch.tensor([-1.1, 0.4])
        mean = alpha_prev * x0 + covariance / sigma**2 * (x_t - alpha * x0)
        found = posterior(x0[None, :, None, None], x_t[None, :, None, None], schedule, torch.tensor([t]))
        torch.testing.assert_close(found[0].flatten(), mean, atol=1e-6, rtol=1e-4)
        assert found[1].item() == pytest.approx(math.log(sigma_prev**2 - covariance**2 / sigma**2), abs=1e-4)


def test_inpainting_samples_conditional_of_known_part() -> None:
    """Check RePaint on a straight path: the second channel, given the first."""
    known = torch.full((2000, 2, 1, 1), 0.5, dtype=torch.float64)
    mask = torch.tensor([1.0, 0.0])[:, None, None]
    samples = repaint(
        optimal(FLOW),
        starts(2000),
        known,
        mask,
        time_pairs(FLOW, 60),
        FLOW,
        jump_length=3,
        resamples=8,
        variance="small",
        generator=torch.Generator().manual_seed(2),
    )
    slope = COVARIANCE[1, 0] / COVARIANCE[0, 0]
    assert (samples[:, 0] == 0.5).all()
    assert samples[:, 1].mean().item() == pytest.approx(float(MEAN[1] + slope * (0.5 - MEAN[0])), abs=0.04)


# --- noise alone ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [FLOW, ZERO, COSINE], ids=["flow", "zero", "cosine"])
@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "log_snr", "karras"])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_samplers_start_at_noise_alone(schedule: NoiseSchedule, spacing: Spacing, steps: int) -> None:
    pairs = time_pairs(schedule, steps, spacing)
    assert pairs[0][0] == schedule.num_steps - 1
    assert schedule.at(pairs[0][0])[0] == 0
    assert all(t > t_prev for t, t_prev in pairs)
    first: list[float] = []

    def recording(x: Tensor, t: float) -> X0Prediction:
        first.append(t)
        return optimal(schedule)(x, t)

    for sampler in (
        ddim,
        ancestral,
        flow_heun,
        partial(ddim, eta=1.0),
        *(partial(dpm_solver_pp, order=n) for n in (1, 2, 3)),
    ):
        first.clear()
        assert sampler(recording, starts(), pairs, schedule).isfinite().all()
        assert first[0] == schedule.num_steps - 1


@pytest.mark.parametrize("schedule", [FLOW, ZERO], ids=["flow", "zero"])
def test_heun_over_noise_levels_is_refused_at_alpha_zero(schedule: NoiseSchedule) -> None:
    with pytest.raises(UsageError, match=r"sampler heun divides by alpha.*use flow_heun"):
        Sampling(sampler="heun", steps=5).pairs(schedule)
    with pytest.raises(UsageError, match=r"sampler heun divides by alpha.*use flow_heun"):
        heun(optimal(schedule), starts(), time_pairs(schedule, 5), schedule)


# --- the timestep shift -----------------------------------------------------------------------------------------------


def test_shifted_times_match_equation_23() -> None:
    pairs = Sampling(steps=4, shift=3.0).pairs(FLOW)
    fractions = [(t + 1) / 1000 for t, _ in pairs]
    assert fractions == pytest.approx([3 * s / (1 + 2 * s) for s in (1, 0.75, 0.5, 0.25)])
    assert pairs[-1][1] == -1
    even = [[t for t, _ in pairs] for pairs in (shifted_pairs(FLOW, 8, 1.0, "steps"), time_pairs(FLOW, 8))]
    assert even[0] == pytest.approx(even[1])


def test_invalid_shifts_raise() -> None:
    with pytest.raises(UsageError, match="model.sampling.shift must be above 0"):
        Sampling(shift=0.0)
    with pytest.raises(UsageError, match="shifts uniform times only.*got log_snr"):
        Sampling(steps=4, sampler="dpm_solver++", shift=3.0).pairs(FLOW)
    with pytest.raises(UsageError, match=r"model.sampling.steps is 50, .*use fewer steps or a larger shift"):
        Sampling(steps=50, shift=0.5).pairs(RectifiedFlow(50))
    with pytest.raises(UsageError, match="must be at least 1, got 0"):
        Sampling(steps=0, shift=2.0).pairs(FLOW)
