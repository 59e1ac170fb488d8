"""Parameterizations: predictions of eps, x0 or v, and weights of their errors at each time.

x_t = alpha x_0 + sigma eps, alpha^2 + sigma^2 = 1, SNR = alpha^2 / sigma^2, v = alpha eps - sigma x_0 (Salimans & Ho 2022,
appendix D). Given x_t, each of eps, x_0 and v determines the other two. Everything is computed in float32.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule

Prediction = Literal["eps", "x0", "v"]
Coefficient = Tensor | float


def target(prediction: Prediction, x: Tensor, noise: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """Compute the target of a prediction: float32 (B, C, H, W).

    Args:
        prediction: eps, x0 or v.
        x: images x_0 (B, C, H, W).
        noise: eps, of the same shape.
        alpha, sigma: of the time; numbers, or (B, 1, 1, 1).
    """
    if prediction == "eps":
        return noise.float()
    if prediction == "x0":
        return x.float()
    return alpha * noise.float() - sigma * x.float()


def to_x0(prediction: Prediction, output: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """Convert a network's output to x0: float32 (B, C, H, W), not clipped.

    Args:
        prediction: eps, x0 or v.
        output: of the network, (B, C, H, W).
        x_t: its input, of the same shape.
        alpha, sigma: of the time, both above 0; numbers, or (B, 1, 1, 1).
    """
    output, x_t = output.float(), x_t.float()
    if prediction == "eps":
        return (x_t - sigma * output) / alpha
    if prediction == "x0":
        return output
    return alpha * x_t - sigma * output


def to_eps(prediction: Prediction, output: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """Convert a network's output to eps: float32 (B, C, H, W); arguments as of ``to_x0``."""
    output, x_t = output.float(), x_t.float()
    if prediction == "eps":
        return output
    if prediction == "x0":
        return (x_t - alpha * output) / sigma
    return sigma * x_t + alpha * output


def from_x0(prediction: Prediction, x0: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """Convert x0 to a network's output: the inverse of ``to_x0``; arguments as there."""
    x0, x_t = x0.float(), x_t.float()
    if prediction == "x0":
        return x0
    if prediction == "eps":
        return (x_t - alpha * x0) / sigma
    return (alpha * x_t - x0) / sigma


class LossWeight:
    """Base of the loss weights. A weight is defined for the squared error of eps, as in the papers.

    ``__call__`` converts it to a weight of the squared error of the network's prediction, so that the loss is the same for
    predictions of eps, x0 and v.
    """

    def __call__(self, prediction: Prediction, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """Compute the weight of the squared error of the network's output at times int64 (B,): float32 (B,)."""
        weight, alpha, sigma = self.of_eps(schedule, t), schedule.alphas[t], schedule.sigmas[t]
        if prediction == "eps":
            return weight
        # x_t fixed: an error of x0 is one of eps alpha / sigma times as large, and an error of v one alpha times
        return weight * (alpha / sigma if prediction == "x0" else alpha).square()

    def of_eps(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """Compute the weight of the squared error of eps at times int64 (B,): float32 (B,)."""
        raise NotImplementedError


class Simple(LossWeight):
    """Weight 1 of the error of eps at every time (Ho et al. 2020, equation 14).

    For predictions of eps. An error of x0 has the weight SNR then: nearly all of the loss is at the times with the least
    noise (of DDPM's 1,000: 9,999 at t = 0, 8.5 at t = 100), and the others are hardly learned.
    """

    def of_eps(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """Return ones, float32 (B,), for times int64 (B,)."""
        return torch.ones_like(schedule.alphas[t])


class MinSNR(LossWeight):
    """Weight min(SNR, gamma) of the error of x0 (Hang et al. 2023): times with little noise have less weight.

    That is min(SNR, gamma) / SNR on eps, and min(SNR, gamma) / (SNR + 1) on v.

    Args:
        gamma: above 0.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if not 0 < gamma < math.inf:
            raise UsageError(f"model.objective.loss_weight.gamma must be above 0, got {gamma}")
        self.gamma = gamma

    def of_eps(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """Compute min(gamma / SNR, 1), the weight of the error of eps at times int64 (B,): float32 (B,)."""
        return (self.gamma / _snr(schedule, t)).clamp(max=1)


class P2(LossWeight):
    """Weight (k + SNR)^-gamma of the error of eps (Choi et al. 2022): imperceptible details have less weight.

    Args:
        gamma: exponent, at least 0; 0 is ``Simple``.
        k: above 0; determines the largest weight.
    """

    def __init__(self, gamma: float = 1.0, k: float = 1.0) -> None:
        if not 0 <= gamma < math.inf:
            raise UsageError(f"model.objective.loss_weight.gamma must be at least 0, got {gamma}")
        if not 0 < k < math.inf:
            raise UsageError(f"model.objective.loss_weight.k must be above 0, got {k}")
        self.gamma, self.k = gamma, k

    def of_eps(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """Compute (k + SNR)^-gamma at times int64 (B,): float32 (B,)."""
        return (self.k + _snr(schedule, t)) ** -self.gamma


class VLB(LossWeight):
    """Weight of the variational bound with sigma_t^2 = beta_t (Ho et al. 2020, equation 12).

    The mean of the loss over times is the bound's mean over steps, in nats per value, up to a constant.
    """

    def of_eps(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """Compute beta_t / (2 alpha_t sigma_t^2), with the paper's alpha_t, at times int64 (B,): float32 (B,)."""
        alpha = (schedule.alphas[t] / schedule.alphas[t - 1]).square()  # the paper's alpha_t; 1 - beta_t would cancel
        return schedule.betas[t] / (2 * alpha * schedule.sigmas[t].square())


class Unweighted(LossWeight):
    """Weight 1 of the error of the prediction itself; the loss depends on the parameterization.

    On eps it is ``Simple``; on x0 the error of x0; on v that of x0 times SNR + 1 (Salimans & Ho 2022, section 4).
    """

    def __call__(self, prediction: Prediction, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return torch.ones_like(schedule.alphas[t])


def loss_of(
    prediction: Prediction,
    weight: LossWeight,
    output: Tensor,
    x: Tensor,
    noise: Tensor,
    schedule: NoiseSchedule,
    t: Tensor,
) -> Tensor:
    """Compute the weighted mean squared error of every image: float32 (B,).

    Args:
        prediction: eps, x0 or v.
        weight: of the error at each time.
        output: of the network for x_t, (B, C, H, W).
        x: images x_0, of the same shape.
        noise: eps, of the same shape.
        schedule: of the noise.
        t: times int64 (B,).
    """
    error = output.float() - target(prediction, x, noise, *schedule.alpha_sigma(t))
    return weight(prediction, schedule, t) * error.square().flatten(1).mean(1)


def _snr(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    return (schedule.alphas[t] / schedule.sigmas[t]).square()
