"""Noise schedules: closed form against the chain, exact tables and invalid arguments."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import (
    CosineSchedule,
    LinearSchedule,
    NoiseSchedule,
    SigmoidSchedule,
)

SCHEDULES = [
    *(LinearSchedule(), LinearSchedule(4000), LinearSchedule(21), CosineSchedule(), CosineSchedule(2)),
    *(SigmoidSchedule(), SigmoidSchedule(50, -3, 3, 0.5)),
]
every = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda it: f"{type(it).__name__}-{it.num_steps}")


def test_linear_schedule_matches_ddpm() -> None:
    schedule = LinearSchedule(1000, 1e-4, 0.02)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(schedule.betas, betas.float())
    assert schedule.at(0)[0] ** 2 == pytest.approx(1 - 1e-4, rel=1e-12)
    assert schedule.at(999)[0] ** 2 == pytest.approx(4.0358e-5, rel=1e-4)


@pytest.mark.parametrize("num_steps", [100, 250, 4000])
def test_linear_schedule_is_similar_at_any_length(num_steps: int) -> None:
    schedule, ddpm = LinearSchedule(num_steps), LinearSchedule()
    for part in (0.25, 0.5, 0.75, 1.0):
        ours, its = (math.log(s.at(part * s.num_steps - 1)[0]) for s in (schedule, ddpm))
        assert ours == pytest.approx(its, rel=0.1)
    torch.testing.assert_close(schedule.betas.sum(), ddpm.betas.sum())


def test_cosine_schedule_matches_paper() -> None:
    def f(t: float) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    schedule = CosineSchedule(1000)
    for t in (0, 1, 500, 998):
        assert schedule.at(t)[0] ** 2 == pytest.approx(f(t + 1) / f(0), rel=1e-9)
    assert schedule.at(999)[0] ** 2 == pytest.approx(f(999) / f(0) * 0.001, rel=1e-9)  # the last beta is cut to .999


def test_sigmoid_schedule_matches_paper() -> None:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x / 0.7))

    schedule = SigmoidSchedule(100, start=-3, end=2, tau=0.7)
    for t in (0, 50, 98):
        left = (sigmoid(2) - sigmoid((t + 1) / 100 * 5 - 3)) / (sigmoid(2) - sigmoid(-3))
        assert schedule.at(t)[0] ** 2 == pytest.approx(left, rel=1e-9)
    assert schedule.betas[-1] == pytest.approx(0.999)


@pytest.mark.parametrize(("build", "name"), [(LinearSchedule, "linear"), (CosineSchedule, "squaredcos_cap_v2")])
def test_diffusers_schedules_are_equal(build: Callable[[], NoiseSchedule], name: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule=name)
    # diffusers rounds the last cosine beta to float32 before 1 - beta
    torch.testing.assert_close(build().alphas[:-1].square(), theirs.alphas_cumprod, rtol=1e-4, atol=0)


def test_denoising_diffusion_pytorch_sigmoid_is_equal() -> None:
    peer = pytest.importorskip("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    torch.testing.assert_close(SigmoidSchedule(300).betas, peer.sigmoid_beta_schedule(300).float(), rtol=1e-4, atol=0)


@every
def test_closed_form_has_moments_of_chain(schedule: NoiseSchedule) -> None:
    """Check q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t) step by step (Ho et al. 2020, equations 2 and 4)."""
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(schedule.betas.tolist()):
        mean, variance = mean * math.sqrt(1 - beta), variance * (1 - beta) + beta
        alpha, sigma = schedule.at(t)
        assert alpha == pytest.approx(mean, rel=2e-5)  # the table of betas is float32
        assert sigma**2 == pytest.approx(variance, rel=2e-5)


def test_closed_form_samples_match_chain_samples() -> None:
    schedule, generator = LinearSchedule(25), torch.Generator().manual_seed(0)
    x = chain = torch.full((40_000, 1, 1, 1), 0.8)
    for beta in schedule.betas[:12]:
        chain = (1 - beta).sqrt() * chain + beta.sqrt() * torch.randn(chain.shape, generator=generator)
    t = torch.full((len(x),), 11)
    closed = schedule.add_noise(x, torch.randn(x.shape, generator=generator), t)
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(closed), moment(chain), atol=0.02, rtol=0)


@every
def test_tables_match_exact_values(schedule: NoiseSchedule) -> None:
    t = torch.arange(schedule.num_steps)
    alpha, sigma = schedule.alpha_sigma(t)
    assert alpha.shape == sigma.shape == schedule.beta(t).shape == (len(t), 1, 1, 1)
    assert alpha.dtype == sigma.dtype == torch.float32
    exact = torch.tensor([schedule.at(int(i)) for i in t], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([alpha, sigma], 1).flatten(1), exact.float(), rtol=2e-7, atol=0)
    torch.testing.assert_close(exact.square().sum(1), torch.ones_like(exact[:, 0]), rtol=1e-14, atol=0)
    for values in (alpha, sigma, alpha / sigma, sigma / alpha, schedule.beta(t).log()):
        assert values.isfinite().all()
        assert (values != 0).all()
    assert (alpha[:-1] > alpha[1:]).all()


@every
def test_time_minus_one_is_the_clean_image(schedule: NoiseSchedule) -> None:
    x, noise = torch.randn(2, 2, 1, 2, 2)
    assert schedule.at(-1) == (1.0, 0.0)
    assert torch.equal(schedule.add_noise(x, noise, torch.tensor([-1, -1])), x)


def test_add_noise_uses_time_of_each_image() -> None:
    schedule, t = CosineSchedule(10), torch.tensor([0, 9, -1])
    x, noise = torch.randn(2, 3, 1, 2, 2)
    found = schedule.add_noise(x, noise, t)
    for i, (alpha, sigma) in enumerate(map(schedule.at, t.tolist())):
        torch.testing.assert_close(found[i], alpha * x[i] + sigma * noise[i])


@every
def test_signal_decreases_between_steps(schedule: NoiseSchedule) -> None:
    end = schedule.num_steps - 1
    for start in (0, end // 2, end - 1):
        times = [start + i / 8 for i in range(9)]
        alphas = [schedule.at(t)[0] for t in times]
        sigmas = [schedule.at(t)[1] for t in times]
        assert alphas == sorted(alphas, reverse=True)
        assert sigmas == sorted(sigmas)
        assert len(set(alphas)) == len(alphas)


@every
def test_time_of_inverts_half_log_snr(schedule: NoiseSchedule) -> None:
    end = schedule.num_steps - 1
    for t in (0, 0.3, 1, end / 2, end / 3, end - 0.5, end):
        assert schedule.time_of(schedule.half_log_snr(t)) == pytest.approx(t, abs=1e-9)
        alpha, sigma = schedule.at(t)
        assert schedule.half_log_snr(t) == pytest.approx(math.log(alpha / sigma), abs=1e-6)
    assert schedule.time_of(1e6) == 0
    assert schedule.time_of(-1e6) == end


@pytest.mark.parametrize("cast", [nn.Module.bfloat16, nn.Module.half, nn.Module.double], ids=lambda it: it.__name__)
def test_casts_keep_tables_in_float32(cast: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(1, 1), LinearSchedule())
    before = [table.clone() for table in model[1].buffers()]
    cast(model)
    assert all(torch.equal(a, b) for a, b in zip(before, model[1].buffers(), strict=True))
    assert model[0].weight.dtype != torch.float32
    assert all(table.device.type == "meta" for table in model.to("meta").buffers())
    assert not LinearSchedule().state_dict()  # the config of a checkpoint is sufficient


@pytest.mark.parametrize("build", [LinearSchedule, CosineSchedule, SigmoidSchedule])
def test_schedule_can_be_built_on_meta_device(build: Callable[[], NoiseSchedule]) -> None:
    with torch.device("meta"):
        assert build().at(0) == build().at(0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LinearSchedule(20), "model.schedule.num_steps must be at least 21, .*got 20"),
        (lambda: LinearSchedule(1, end=1e-4), "at least 2"),
        (lambda: LinearSchedule(100, end=0.5), "at least 501"),
        (lambda: LinearSchedule(start=0), "model.schedule.start, .*must be above 0, got 0"),
        (lambda: LinearSchedule(start=0.03), "model.schedule.end, .*got 0.02"),
        (lambda: CosineSchedule(1), "model.schedule.num_steps must be at least 2, got 1"),
        (lambda: CosineSchedule(s=-0.1), "model.schedule.s must be .*got -0.1"),
        (lambda: CosineSchedule(max_beta=1.0), "model.schedule.max_beta must be .*got 1.0"),
        (lambda: SigmoidSchedule(0), "model.schedule.num_steps must be at least 2, got 0"),
        (lambda: SigmoidSchedule(tau=0), "model.schedule.tau must be above 0, got 0"),
        (lambda: SigmoidSchedule(tau=0.05), "flat at its ends"),
        (lambda: SigmoidSchedule(start=3, end=-3), "model.schedule.start must be below .*got 3 and -3"),
        (lambda: NoiseSchedule(torch.tensor([0.1, 1.0])), "1 of them not in"),
        (lambda: NoiseSchedule(torch.tensor([0.1, math.nan])), "1 of them not in"),
        (lambda: NoiseSchedule(torch.empty(0)), "0 values"),
    ],
)
def test_out_of_range_arguments_raise(build: Callable[[], NoiseSchedule], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()


@pytest.mark.parametrize("build", [lambda: LinearSchedule(21), lambda: CosineSchedule(2), lambda: SigmoidSchedule(2)])
def test_smallest_number_of_steps_ends_in_noise(build: Callable[[], NoiseSchedule]) -> None:
    assert 0 < build().at(build().num_steps - 1)[0] < 0.05
