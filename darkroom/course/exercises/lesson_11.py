"""Lesson 11: DDPM and samplers."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.samplers import X0Prediction, ddim, step_variances


def _betas(generator: Generator, steps: int) -> Tensor:
    """Return rising betas."""
    return 0.02 + (0.3 * torch.rand(steps, generator=generator)).sort().values


def _images(generator: Generator, count: int) -> Tensor:
    return 2 * torch.rand(count, 2, 3, 3, generator=generator) - 1


def _noisy(generator: Generator) -> Sequence[Inputs]:
    return [
        {
            "x0": _images(generator, count),
            "noise": torch.randn(count, 2, 3, 3, generator=generator),
            "t": t,
            "betas": _betas(generator, 8),
        }
        for count, t in ((1, torch.tensor([7])), (3, torch.tensor([0, 3, 7])))
    ]


def _predictions(generator: Generator) -> Sequence[Inputs]:
    return [
        {"x_t": _images(generator, 2), "eps": torch.randn(2, 2, 3, 3, generator=generator), "alpha_bar": alpha_bar}
        for alpha_bar in (0.9, 0.25)
    ]


def _states(generator: Generator) -> Sequence[Inputs]:
    return [
        {"x_t": _images(generator, 2), "x0": _images(generator, 2), "t": t, "betas": _betas(generator, 8)}
        for t in (5, 1, 0)
    ]


def _steps(generator: Generator) -> Sequence[Inputs]:
    return [
        {
            "x": _images(generator, 2),
            "eps": torch.randn(2, 2, 3, 3, generator=generator),
            "t": t,
            "t_prev": t_prev,
            "alphas_bar": (1 - _betas(generator, 10)).cumprod(0),
        }
        for t, t_prev in ((5, 4), (9, 4), (4, -1), (0, -1))
    ]


def _q_sample(x0: Tensor, noise: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    return NoiseSchedule(betas).add_noise(x0, noise, t)


def _x0_from_eps(x_t: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    return (x_t - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)


def _posterior_mean(x_t: Tensor, x0: Tensor, t: int, betas: Tensor) -> Tensor:
    schedule = NoiseSchedule(betas)
    (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t - 1)
    beta = step_variances(schedule, t, t - 1)[0]
    return alpha_prev * beta / sigma**2 * x0 + alpha / alpha_prev * (sigma_prev / sigma) ** 2 * x_t


def _ddim_step(x: Tensor, eps: Tensor, t: int, t_prev: int, alphas_bar: Tensor) -> Tensor:
    schedule = NoiseSchedule(1 - alphas_bar.double() / torch.cat([torch.ones(1), alphas_bar[:-1]]).double())
    x0 = _x0_from_eps(x, eps, float(alphas_bar[t]))
    return ddim(lambda x, t: X0Prediction(x0), x, [(t, t_prev)], schedule)


def _one_time_early(x0: Tensor, noise: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    alpha_bar = torch.cat([torch.ones(1), (1 - betas).cumprod(0)])[t].view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def _without_roots(x0: Tensor, noise: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    alpha_bar = (1 - betas).cumprod(0)[t].view(-1, 1, 1, 1)
    return alpha_bar * x0 + (1 - alpha_bar) * noise


def _single_beta(x0: Tensor, noise: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    beta = betas[t].view(-1, 1, 1, 1)
    return (1 - beta).sqrt() * x0 + beta.sqrt() * noise


EXERCISES = (
    Exercise(
        "q_sample",
        _q_sample,
        _noisy,
        (
            Mistake(_one_time_early, "the product ends one step early: at time 0 one step of noise has been added"),
            Mistake(_without_roots, "variances are used as factors; the factors are standard deviations"),
            Mistake(_single_beta, "this is one step of the process; x_t is t + 1 steps away from the image"),
        ),
    ),
    Exercise(
        "x0_from_eps",
        _x0_from_eps,
        _predictions,
        (
            Mistake(
                lambda x_t, eps, alpha_bar: (x_t - (1 - alpha_bar) * eps) / alpha_bar,
                "variances are used as factors; the factors are standard deviations",
            ),
            Mistake(
                lambda x_t, eps, alpha_bar: x_t - math.sqrt(1 - alpha_bar) * eps,
                "the noise is removed, but the image is still darkened by its own factor in x_t",
            ),
        ),
    ),
    Exercise(
        "posterior_mean",
        _posterior_mean,
        _states,
        (
            Mistake(
                lambda x_t, x0, t, betas: _posterior_mean(x0, x_t, t, betas),
                "the factors of x_t and x_0 are exchanged",
            ),
        ),
    ),
    Exercise(
        "ddim_step",
        _ddim_step,
        _steps,
        (
            Mistake(
                lambda x, eps, t, t_prev, alphas_bar: _ddim_step(x, eps, t, t - 1, alphas_bar),
                "the step always ends at t - 1; it is right only while no time is skipped",
            ),
        ),
        repair=True,
    ),
)
