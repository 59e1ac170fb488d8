"""Likelihood: the variational bound on a picture's code length, term by term (Ho et al. 2020, equation 5).

Pictures are (B, C, H, W) in [-1, 1], times int64 (B,). All compute in float32, whatever they are given. The bound of a
picture is the sum of ``vlb_term`` over all T times and of ``prior_bits``.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.special import log_ndtr

from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.utils.random import Generators, draw_noise

FixedVariance = Literal["small", "large"]
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]  # (x_t, t int64 (B,)) -> x0 and, if learned, v


def posterior(x0: Tensor, x_t: Tensor, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """q(x_{t-1} | x_t, x_0): its mean (B, C, H, W) and log variance (B, 1, 1, 1) (Ho et al. 2020, equations 6 and 7).

    At t = 0 the mean is x0 and the variance 0, in whose place stands that at t = 1, so that its logarithm is finite.

    Args:
        x0, x_t: pictures (B, C, H, W).
        schedule: of the noise.
        t: int64 (B,).
    """
    (alpha, sigma), (alpha_prev, sigma_prev) = schedule.alpha_sigma(t), schedule.alpha_sigma(t - 1)
    beta, kept = schedule.beta(t), alpha / alpha_prev  # the paper's beta_t, and the root of its alpha_t
    mean = (alpha_prev * beta * x0.float() + kept * sigma_prev.square() * x_t.float()) / sigma.square()  # equation 7
    return mean, fixed_log_variance("small", schedule, t)


def fixed_log_variance(variance: FixedVariance, schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Log variance of a step back, where it is not learned: float32 (B, 1, 1, 1) (Ho et al. 2020, section 3.2).

    At t = 0 both are the small one at t = 1, as in the paper's code: that step's likelihood depends on it.

    Args:
        variance: small: that of the posterior, right if all pictures were one; large: beta_t, right if pictures were noise.
        schedule: of the noise.
        t: int64 (B,).
    """
    small = _small_log_variance(schedule, t)
    return small if variance == "small" else torch.where(_is_first(t), small, schedule.beta(t).log())


def learned_log_variance(v: Tensor, schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Log variance between the small one, at v = -1, and beta_t, at v = 1 (Nichol & Dhariwal 2021, equation 15).

    Args:
        v: of the network, (B, C, H, W); beyond [-1, 1] the line goes on.
        schedule: of the noise.
        t: int64 (B,).
    """
    return torch.lerp(_small_log_variance(schedule, t), schedule.beta(t).log(), (v.float() + 1) / 2)


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(other mean, other variance)) of every value, in nats."""
    ratio = log_variance - other_log_variance
    return (torch.expm1(ratio) - ratio + (mean - other_mean).square() * torch.exp(-other_log_variance)) / 2


def discretized_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log p(x) of every value, in nats: a normal distribution's share of x's 8-bit level (Ho et al. 2020, equation 13).

    A level reaches half the way to its neighbours, the outermost to infinity: over the 256 the shares sum to one.

    Args:
        x: pictures in [-1, 1] of 256 levels.
        mean: of the distribution; broadcasts with x.
        log_scale: log of its standard deviation; broadcasts with x.
    """
    level = ((x.float() + 1) * 127.5).round()
    centred, scale = level / 127.5 - 1 - mean.float(), log_scale.float().exp()
    upper, lower = (centred + 1 / 255) / scale, (centred - 1 / 255) / scale
    # Inside, on the left side of the bell, where the logarithms of its integral are exact; it is symmetric.
    left = -centred.abs()
    above, below = log_ndtr((left + 1 / 255) / scale), log_ndtr((left - 1 / 255) / scale)
    inside = above + torch.log(-torch.expm1(below - above))
    log_prob = torch.where(level < 0.5, log_ndtr(upper), inside)
    return torch.where(level > 254.5, log_ndtr(-lower), log_prob)


def vlb_term(
    x: Tensor, x_t: Tensor, t: Tensor, x0_hat: Tensor, log_variance: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """One term of the bound for every picture, in bits per dimension: float32 (B,) (Ho et al. 2020, equation 5).

    L_{t-1}, the KL between the posterior and the model's step back; at t = 0 L_0, the code length of the picture itself.

    Args:
        x: pictures in [-1, 1] of 256 levels.
        x_t: their noisy versions.
        t: int64 (B,).
        x0_hat: what the model takes x for, given x_t.
        log_variance: of the model's step back, (B, C, H, W) or (B, 1, 1, 1).
        schedule: of the noise.
    """
    mean, true_log_variance = posterior(x, x_t, schedule, t)
    model_mean, _ = posterior(x0_hat, x_t, schedule, t)
    kl = gaussian_kl(mean, true_log_variance, model_mean, log_variance)
    first = _is_first(t)  # elsewhere the code length is of x itself, so that no gradient of it is infinite
    mean, log_scale = torch.where(first, model_mean, x.float()), torch.where(first, log_variance / 2, 0.0)
    code_length = -discretized_gaussian_log_likelihood(x, mean, log_scale)
    return _bits_per_dim(torch.where(first, code_length, kl))


def prior_bits(x: Tensor, schedule: NoiseSchedule) -> Tensor:
    """KL(q(x_T | x_0) || N(0, I)), in bits per dimension: float32 (B,); nothing that a network could change.

    Args:
        x: pictures (B, C, H, W) in [-1, 1].
        schedule: of the noise.
    """
    alpha, sigma = schedule.alpha_sigma(torch.full((len(x),), schedule.num_steps - 1, device=x.device))
    nought = torch.zeros_like(alpha)
    return _bits_per_dim(gaussian_kl(alpha * x.float(), 2 * sigma.log(), nought, nought))


def code_length(
    predict: Predict,
    x: Tensor,
    schedule: NoiseSchedule,
    variance: FixedVariance = "large",
    generator: Generators = None,
) -> Tensor:
    """The bound on -log2 p(x) per dimension of every picture, with one draw of each x_t: float32 (B,) (equation 5).

    Args:
        predict: what the model takes x for, and v of its variance, given x_t and times.
        x: pictures in [-1, 1] of 256 levels.
        schedule: of the noise; T predictions are asked for.
        variance: of a step back, where there is no v.
        generator: decides the noise.
    """
    total = prior_bits(x, schedule)
    for step in range(schedule.num_steps):
        t = torch.full((len(x),), step, device=x.device)
        x_t = schedule.add_noise(x, draw_noise(x.shape, x.device, generator), t)
        x0, v = predict(x_t, t)
        fixed = v is None
        log_variance = fixed_log_variance(variance, schedule, t) if fixed else learned_log_variance(v, schedule, t)
        total = total + vlb_term(x, x_t, t, x0, log_variance, schedule)
    return total


def _small_log_variance(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    t = t.clamp(min=1)
    (_, sigma), (_, sigma_prev) = schedule.alpha_sigma(t), schedule.alpha_sigma(t - 1)
    return schedule.beta(t).log() + 2 * (sigma_prev / sigma).log()  # equation 7


def _is_first(t: Tensor) -> Tensor:
    return (t == 0)[:, None, None, None]


def _bits_per_dim(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(1) / math.log(2)
