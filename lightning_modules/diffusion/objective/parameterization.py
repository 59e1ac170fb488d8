"""Parameterizations: what the network predicts (eps, x0 or v), and how much its error at each time weighs in the loss.

x_t = alpha x_0 + sigma eps, alpha^2 + sigma^2 = 1, SNR = alpha^2 / sigma^2, v = alpha eps - sigma x_0 (Salimans & Ho 2022,
appendix D). Given x_t, any of eps, x_0 and v says what the other two are. All compute in float32, whatever they are given.
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
    """What the network should say: float32 (B, C, H, W).

    Args:
        prediction: what it predicts.
        x: pictures x_0 (B, C, H, W).
        noise: eps, of the same shape.
        alpha, sigma: of the time; numbers, or (B, 1, 1, 1).
    """
    if prediction == "eps":
        return noise.float()
    if prediction == "x0":
        return x.float()
    return alpha * noise.float() - sigma * x.float()


def to_x0(prediction: Prediction, output: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """The picture that the network's output amounts to: float32 (B, C, H, W), not clipped.

    Args:
        prediction: what the network predicts.
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
    """The noise that the network's output amounts to: float32 (B, C, H, W); arguments as of ``to_x0``."""
    output, x_t = output.float(), x_t.float()
    if prediction == "eps":
        return output
    if prediction == "x0":
        return (x_t - alpha * output) / sigma
    return sigma * x_t + alpha * output


def from_x0(prediction: Prediction, x0: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """What the network would have said for this picture x0: the inverse of ``to_x0``; arguments as there."""
    x0, x_t = x0.float(), x_t.float()
    if prediction == "x0":
        return x0
    if prediction == "eps":
        return (x_t - alpha * x0) / sigma
    return (alpha * x_t - x0) / sigma


class LossWeight:
    """Base of the weights. A weight is defined for the squared error of eps, in which the papers state theirs.

    Called, it gives the weight of the squared error of what the network itself predicts, such that one predicted picture
    has one loss, whether the network says eps, x0 or v.
    """

    def __call__(self, prediction: Prediction, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """Weight of the squared error of the network's output at times int64 (B,): float32 (B,)."""
        weight, alpha, sigma = self.of_eps(schedule, t), schedule.alphas[t], schedule.sigmas[t]
        if prediction == "eps":
            return weight
        # x_t fixed: an error of x0 is one of eps alpha / sigma times as large, and an error of v one alpha times
        return weight * (alpha / sigma if prediction == "x0" else alpha).square()

    def of_eps(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """Weight of the squared error of eps at times int64 (B,): float32 (B,)."""
        raise NotImplementedError


class Simple(LossWeight):
    """1 for every time (Ho et al. 2020, equation 14)."""

    def of_eps(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return torch.ones_like(schedule.alphas[t])


class MinSNR(LossWeight):
    """min(SNR, gamma) on the error of x0 (Hang et al. 2023): times with little noise, whose errors are alike, weigh less.

    That is min(SNR, gamma) / SNR on eps, and min(SNR, gamma) / (SNR + 1) on v.

    Args:
        gamma: above 0.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if not 0 < gamma < math.inf:
            raise UsageError(f"model.loss_weight.gamma is {gamma}; it is the largest weight of an error of x0, above 0")
        self.gamma = gamma

    def of_eps(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return (self.gamma / _snr(schedule, t)).clamp(max=1)


class P2(LossWeight):
    """(k + SNR)^-gamma on the error of eps (Choi et al. 2022): details that nobody sees weigh less.

    Args:
        gamma: how much less, at least 0; 0 is ``Simple``.
        k: above 0; sets the largest weight.
    """

    def __init__(self, gamma: float = 1.0, k: float = 1.0) -> None:
        if not 0 <= gamma < math.inf:
            raise UsageError(f"model.loss_weight.gamma is {gamma}; it is an exponent from 0 on")
        if not 0 < k < math.inf:
            raise UsageError(f"model.loss_weight.k is {k}; it is a number above 0")
        self.gamma, self.k = gamma, k

    def of_eps(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return (self.k + _snr(schedule, t)) ** -self.gamma


class VLB(LossWeight):
    """The variational bound's own weight with sigma_t^2 = beta_t (Ho et al. 2020, equation 12).

    The mean of the loss over times is the bound's mean over steps, in nats for each of the C H W values, up to what no
    network can change.
    """

    def of_eps(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        kept = (schedule.alphas[t] / schedule.alphas[t - 1]).square()  # the paper's alpha_t; as 1 - beta_t it cancels
        return schedule.betas[t] / (2 * kept * schedule.sigmas[t].square())


class Unweighted(LossWeight):
    """The plain squared error of whatever the network predicts: its loss depends on the parameterization."""

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
    """The weighted mean squared error of every picture: float32 (B,).

    Args:
        prediction: what the network predicts.
        weight: of the error at each time.
        output: of the network for x_t, (B, C, H, W).
        x: pictures x_0, of the same shape.
        noise: eps, of the same shape.
        schedule: of the noise.
        t: times int64 (B,).
    """
    error = output.float() - target(prediction, x, noise, *schedule.alpha_sigma(t))
    return weight(prediction, schedule, t) * error.square().flatten(1).mean(1)


def _snr(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    return (schedule.alphas[t] / schedule.sigmas[t]).square()
