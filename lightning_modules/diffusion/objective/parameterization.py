"""Parameterizations: predictions of eps, x0, v, flow or EDM's F, and weights of their errors at each time.

x_t = alpha x_0 + sigma eps, SNR = alpha^2 / sigma^2. Given x_t, each prediction determines all others. Everything is
computed in float32.

| prediction | target | source |
|---|---|---|
| eps | eps | Ho et al. 2020, equation 14 |
| x0 | x_0 | |
| v | alpha eps - sigma x_0, for alpha^2 + sigma^2 = 1 | Salimans & Ho 2022, appendix D |
| flow | eps - x_0, the velocity of x_t for alpha = 1 - s and sigma = s | Liu et al. 2022, equation 1; Lipman et al. 2022 |
| edm | F of x_0 = c_skip x + c_out F(c_in x), where x = x_t / alpha | Karras et al. 2022, equation 7 and Table 1 |
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule

Prediction = Literal["eps", "x0", "v", "flow", "edm"]
Coefficient = Tensor | float


@dataclass(frozen=True)
class Parameterization:
    """Output of a network, and its conversions to the image and to the noise.

    Tensors are images (B, C, H, W). ``alpha`` and ``sigma`` are those of the time: numbers, or (B, 1, 1, 1).

    Args:
        prediction: eps, x0, v, flow or edm.
        sigma_data: of edm, above 0: standard deviation of the data.
    """

    prediction: Prediction = "eps"
    sigma_data: float = 0.5

    def input_scale(self, alpha: Coefficient, sigma: Coefficient) -> Coefficient:
        """Compute the factor of x_t in the network's input: 1, or for edm c_in / alpha (Karras et al. 2022, Table 1)."""
        return 1.0 if self.prediction != "edm" else self._variance(alpha, sigma) ** -0.5

    def network_input(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """Return the network's input for x_t: itself, or for edm scaled by ``input_scale``."""
        return x_t if self.prediction != "edm" else self.input_scale(alpha, sigma) * x_t

    def target(self, x: Tensor, noise: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """Compute the target of the prediction for images x_0 and noise eps: float32 (B, C, H, W)."""
        x, noise = x.float(), noise.float()
        if self.prediction == "eps":
            return noise
        if self.prediction == "x0":
            return x
        if self.prediction == "v":
            return alpha * noise - sigma * x
        if self.prediction == "flow":
            return noise - x
        root = self._variance(alpha, sigma) ** 0.5  # (x_0 - c_skip x) / c_out without its division by sigma
        return (sigma * x / self.sigma_data - self.sigma_data * alpha * noise) / root

    def to_x0(self, output: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """Convert a network's output for x_t to x0: float32 (B, C, H, W), not clipped. For eps, alpha must be above 0."""
        output, x_t = output.float(), x_t.float()
        if self.prediction == "eps":
            return (x_t - sigma * output) / alpha
        if self.prediction == "x0":
            return output
        if self.prediction == "v":
            return alpha * x_t - sigma * output
        if self.prediction == "flow":
            return (x_t - sigma * output) / (alpha + sigma)
        variance = self._variance(alpha, sigma)
        skip, out = self.sigma_data**2 * alpha / variance, sigma * self.sigma_data / variance**0.5
        return skip * x_t + out * output  # equation 7: c_skip / alpha and c_out of Table 1 for sigma / alpha

    def to_eps(self, output: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """Convert a network's output for x_t to eps: float32 (B, C, H, W). For x0, sigma must be above 0."""
        output, x_t = output.float(), x_t.float()
        if self.prediction == "eps":
            return output
        if self.prediction == "x0":
            return (x_t - alpha * output) / sigma
        if self.prediction == "v":
            return sigma * x_t + alpha * output
        if self.prediction == "flow":
            return (x_t + alpha * output) / (alpha + sigma)
        variance = self._variance(alpha, sigma)
        return sigma / variance * x_t - alpha * self.sigma_data / variance**0.5 * output

    def from_x0(self, x0: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """Convert x0 to a network's output for x_t: the inverse of ``to_x0``. Sigma must be above 0."""
        x0, x_t = x0.float(), x_t.float()
        if self.prediction == "x0":
            return x0
        if self.prediction == "v":
            return (alpha * x_t - x0) / sigma
        eps = (x_t - alpha * x0) / sigma
        return eps if self.prediction == "eps" else self.target(x0, eps, alpha, sigma)

    def eps_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Compute the error of eps that an error of 1 of the output is, for a fixed x_t."""
        if self.prediction == "eps":
            return torch.ones_like(alpha)
        if self.prediction == "x0":
            return alpha / sigma
        if self.prediction == "v":
            return alpha
        if self.prediction == "flow":
            return alpha / (alpha + sigma)
        return alpha * self.sigma_data / self._variance(alpha, sigma) ** 0.5

    def _variance(self, alpha: Coefficient, sigma: Coefficient) -> Coefficient:
        """Compute the variance of x_t for data of the deviation ``sigma_data``."""
        return sigma**2 + (self.sigma_data * alpha) ** 2


class LossWeight:
    """Base of the loss weights. A weight is defined for the squared error of eps, as in the papers.

    ``__call__`` converts it to a weight of the squared error of the network's prediction, so that the loss is the same for
    all predictions.
    """

    def __call__(self, parameterization: Parameterization, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """Compute the weight of the squared error of the network's output at times (B,): float32 (B,)."""
        return self.of_eps(schedule, t) * parameterization.eps_error(*coefficients(schedule, t)).square()

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
        return torch.ones(len(t), dtype=torch.float32, device=t.device)


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

    With gamma 1 it is 1 / k times the soft min-SNR weight k / (k + SNR), whose gamma is k (Crowson et al. 2024).

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

    On eps it is ``Simple``; on x0 the error of x0; on v that of x0 times SNR + 1 (Salimans & Ho 2022, section 4); on flow
    that of x0 divided by s^2; on edm that of x0 times EDM's lambda, 1 / c_out^2 (Karras et al. 2022,
    equation 8 and Table 1).
    """

    def __call__(self, parameterization: Parameterization, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return torch.ones(len(t), dtype=torch.float32, device=t.device)


def loss_of(
    parameterization: Parameterization,
    weight: LossWeight,
    output: Tensor,
    x: Tensor,
    noise: Tensor,
    schedule: NoiseSchedule,
    t: Tensor,
) -> Tensor:
    """Compute the weighted mean squared error of every image: float32 (B,).

    Args:
        parameterization: of the network's output.
        weight: of the error at each time.
        output: of the network for x_t, (B, C, H, W).
        x: images x_0, of the same shape.
        noise: eps, of the same shape.
        schedule: of the noise.
        t: times (B,).
    """
    error = output.float() - parameterization.target(x, noise, *schedule.alpha_sigma(t))
    return weight(parameterization, schedule, t) * error.square().flatten(1).mean(1)


def coefficients(schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at times (B,): float32 (B,) each."""
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha.flatten(), sigma.flatten()


def _snr(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    alpha, sigma = coefficients(schedule, t)
    return (alpha / sigma).square()
