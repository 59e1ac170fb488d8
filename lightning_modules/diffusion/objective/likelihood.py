"""Variational bound on an image's code length, term by term (Ho et al. 2020, equation 5).

Images are (B, C, H, W) in [-1, 1], times int64 (B,). Everything is computed in float32. The bound of an image is the sum of
``vlb_term`` over all T times and of ``prior_bits``.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.special import log_ndtr

from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.utils.random import Generators, sample_noise

FixedVariance = Literal["small", "large"]
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]  # (x_t, t int64 (B,)) -> x0 and, if learned, v


def posterior(x0: Tensor, x_t: Tensor, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """Compute q(x_{t-1} | x_t, x_0): mean (B, C, H, W) and log variance (B, 1, 1, 1) (Ho et al. 2020, equations 6 and 7).

    At t = 0 the mean is x0, and the variance is that at t = 1 instead of 0, so that its logarithm is finite.

    Args:
        x0, x_t: images (B, C, H, W).
        schedule: of the noise.
        t: int64 (B,).
    """
    (alpha, sigma), (alpha_prev, sigma_prev) = schedule.alpha_sigma(t), schedule.alpha_sigma(t - 1)
    beta, kept = schedule.beta(t), alpha / alpha_prev  # the paper's beta_t, and the root of its alpha_t
    mean = (alpha_prev * beta * x0.float() + kept * sigma_prev.square() * x_t.float()) / sigma.square()  # equation 7
    return mean, fixed_log_variance("small", schedule, t)


def fixed_log_variance(variance: FixedVariance, schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Compute the log variance of a reverse step that is not learned: float32 (B, 1, 1, 1) (Ho et al. 2020, section 3.2).

    At t = 0 both are the small one at t = 1, as in the paper's code: that step's likelihood depends on it.

    Args:
        variance: small: that of the posterior, optimal for a single image; large: beta_t, optimal for standard normal
            images.
        schedule: of the noise.
        t: int64 (B,).
    """
    small = _small_log_variance(schedule, t)
    return small if variance == "small" else torch.where(_is_first(t), small, schedule.large_variance(t).log())


def learned_log_variance(v: Tensor, schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Interpolate the log variance between the small one, at v = -1, and beta_t, at v = 1 (Nichol & Dhariwal 2021, equation
    15).

    Args:
        v: of the network, (B, C, H, W); extrapolated beyond [-1, 1].
        schedule: of the noise.
        t: int64 (B,).
    """
    return torch.lerp(_small_log_variance(schedule, t), schedule.large_variance(t).log(), (v.float() + 1) / 2)


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Compute KL(N(mean, variance) || N(other mean, other variance)) of every value, in nats."""
    ratio = log_variance - other_log_variance
    return (torch.expm1(ratio) - ratio + (mean - other_mean).square() * torch.exp(-other_log_variance)) / 2


def discretized_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Compute log p(x) of every value in nats: the probability of x's 8-bit level under a normal distribution (Ho et al.
    2020, equation 13).

    A level extends half-way to its neighbours, the outermost ones to infinity, so the probabilities of all 256 sum to one.

    Args:
        x: images in [-1, 1] of 256 levels.
        mean: of the distribution; broadcasts with x.
        log_scale: log of its standard deviation; broadcasts with x.
    """
    level = ((x.float() + 1) * 127.5).round()
    centred, scale = level / 127.5 - 1 - mean.float(), log_scale.float().exp()
    upper, lower = (centred + 1 / 255) / scale, (centred - 1 / 255) / scale
    # By symmetry on the left side, where the logarithm of the cumulative distribution is accurate.
    left = -centred.abs()
    above, below = log_ndtr((left + 1 / 255) / scale), log_ndtr((left - 1 / 255) / scale)
    inside = above + torch.log(-torch.expm1(below - above))
    log_prob = torch.where(level < 0.5, log_ndtr(upper), inside)
    return torch.where(level > 254.5, log_ndtr(-lower), log_prob)


def vlb_term(
    x: Tensor, x_t: Tensor, t: Tensor, x0_hat: Tensor, log_variance: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Compute one term of the bound of every image, in bits per dimension: float32 (B,) (Ho et al. 2020, equation 5).

    L_{t-1}, the KL between the posterior and the model's reverse step; at t = 0 L_0, the code length of the image itself.

    Args:
        x: images in [-1, 1] of 256 levels.
        x_t: their noisy versions.
        t: int64 (B,).
        x0_hat: the model's prediction of x, given x_t.
        log_variance: of the model's reverse step, (B, C, H, W) or (B, 1, 1, 1).
        schedule: of the noise.
    """
    mean, true_log_variance = posterior(x, x_t, schedule, t)
    model_mean, _ = posterior(x0_hat, x_t, schedule, t)
    kl = gaussian_kl(mean, true_log_variance, model_mean, log_variance)
    first = _is_first(t)  # elsewhere the code length is that of x itself, so that its gradient is finite
    mean, log_scale = torch.where(first, model_mean, x.float()), torch.where(first, log_variance / 2, 0.0)
    code_length = -discretized_gaussian_log_likelihood(x, mean, log_scale)
    return _bits_per_dim(torch.where(first, code_length, kl))


def prior_bits(x: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Compute KL(q(x_T | x_0) || N(0, I)) in bits per dimension: float32 (B,); it does not depend on the network.

    Args:
        x: images (B, C, H, W) in [-1, 1].
        schedule: of the noise.
    """
    alpha, sigma = schedule.alpha_sigma(torch.full((len(x),), schedule.num_steps - 1, device=x.device))
    zero = torch.zeros_like(alpha)
    return _bits_per_dim(gaussian_kl(alpha * x.float(), 2 * sigma.log(), zero, zero))


def code_length(
    predict: Predict,
    x: Tensor,
    schedule: NoiseSchedule,
    variance: FixedVariance = "large",
    generator: Generators = None,
) -> Tensor:
    """Compute the bound on -log2 p(x) per dimension of every image, with one sample of each x_t: float32 (B,)
    (equation 5).

    Args:
        predict: predicts x0, and v of the variance if it is learned, given x_t and times.
        x: images in [-1, 1] of 256 levels.
        schedule: of the noise; there are T predictions.
        variance: of a reverse step, if it is not learned.
        generator: determines the noise.
    """
    total = prior_bits(x, schedule)
    for step in range(schedule.num_steps):
        t = torch.full((len(x),), step, device=x.device)
        x_t = schedule.add_noise(x, sample_noise(x.shape, x.device, generator), t)
        x0, v = predict(x_t, t)
        fixed = fixed_log_variance(variance, schedule, t)
        log_variance = fixed if v is None else learned_log_variance(v, schedule, t)
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
