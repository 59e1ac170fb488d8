"""Schedules with real-valued times in training: rectified flow, and EDM's noise levels.

Times are steps, as of the other schedules: -1 is the image itself and T - 1 the noisiest time. Networks embed them as they
embed whole times. Samplers take whole or fractional times.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import (
    NoiseSchedule,
    betas_of,
    check_steps,
    line,
)


class RectifiedFlow(NoiseSchedule):
    """Straight paths from image to noise: alpha = 1 - s, sigma = s, where s = (t + 1) / T is in (0, 1] (Liu et al. 2022;
    Lipman et al. 2022; Esser et al. 2024, section 3).

    The last time is noise alone, alpha 0. Euler's method for the flow is ``ddim``, Heun's ``flow_heun``.

    Args:
        num_steps: T, at least 2: whole times, of which bits/dim and samplers with uniform spacing use some or all. Training
            samples all of (-1, T - 1].

    Raises:
        UsageError: an argument out of its range.
    """

    continuous: ClassVar[bool] = True
    variance_preserving: ClassVar[bool] = False
    large_variances: Tensor

    def __init__(self, num_steps: int = 1000) -> None:
        check_steps(num_steps)
        sigma = line(1 / num_steps, 1, num_steps)
        alpha = 1 - sigma
        power = alpha.square() + sigma.square()
        kept = F.pad(alpha.square() / power, (1, 0), value=1.0)  # x_t / sqrt(power) is variance preserving
        betas = betas_of(kept, max_beta=1.0)
        super().__init__(betas, ends_in_noise=True)
        before = F.pad(power[:-1], (1, 0), value=1.0)
        self.alphas, self.sigmas = F.pad(alpha.float(), (0, 1), value=1.0), F.pad(sigma.float(), (0, 1))
        self.betas = (power * betas).float()  # sigma_t^2 - (alpha_t / alpha_{t-1})^2 sigma_{t-1}^2
        self.register_buffer("large_variances", (before * betas).float(), persistent=False)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma, float32 (B, 1, 1, 1) each, at times (B,) in [-1, T - 1]."""
        sigma = ((t.float() + 1) / self.num_steps)[:, None, None, None]
        return 1 - sigma, sigma

    def large_variance(self, t: Tensor) -> Tensor:
        """Return the variance of the reverse step from times int64 (B,) if x_0 is standard normal: float32 (B, 1, 1, 1)."""
        return self.large_variances[t][:, None, None, None]

    def power(self, t: float) -> float:
        """Return alpha^2 + sigma^2 at one time."""
        alpha, sigma = self.at(t)
        return alpha**2 + sigma**2

    def at(self, t: float) -> tuple[float, float]:
        """Return alpha and sigma at one time in [-1, T - 1]."""
        sigma = (t + 1) / self.num_steps
        return 1 - sigma, sigma

    def half_log_snr(self, t: float) -> float:
        """Compute log(alpha / sigma) at a time in (-1, T - 1]; -inf at the last."""
        alpha, sigma = self.at(t)
        return math.log(alpha / sigma) if alpha > 0 else -math.inf

    def time_of(self, half_log_snr: float) -> float:
        """Invert ``half_log_snr``."""
        return self.num_steps / (1 + math.exp(half_log_snr)) - 1

    def times_at(self, fraction: Tensor) -> Tensor:
        """Return the times at s in (0, 1]: float32 of the same shape."""
        return fraction.float() * self.num_steps - 1

    def times_of_noise(self, log_noise: Tensor) -> Tensor:
        """Return the times at which log(sigma / alpha) has these values: float32 (B,)."""
        return self.times_at(torch.sigmoid(log_noise))


class EDMSchedule(NoiseSchedule):
    """Noise levels sigma / alpha of EDM, even in their logarithm (Karras et al. 2022).

    x_t is EDM's x times alpha, so that alpha^2 + sigma^2 = 1 and every sampler works; ``heun`` is EDM's. The network's time
    t is c_noise = ln(sigma / alpha) / 4 (Table 1) in other units: 0 at the first level, T - 1 at the last.

    Args:
        num_steps: T, at least 2: whole times. Training samples all of [0, T - 1].
        sigma_min: first level, above 0.
        sigma_max: last level, above ``sigma_min``.

    Raises:
        UsageError: an argument out of its range.
    """

    continuous: ClassVar[bool] = True

    def __init__(self, num_steps: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        check_steps(num_steps)
        if not 0 < sigma_min < sigma_max < math.inf:
            raise UsageError(
                "model.schedule.sigma_min must be above 0 and below model.schedule.sigma_max, "
                f"got {sigma_min} and {sigma_max}"
            )
        levels = line(math.log(sigma_min), math.log(sigma_max), num_steps).exp()
        super().__init__(betas_of(F.pad(1 / (1 + levels.square()), (1, 0), value=1.0), max_beta=1.0))
        self._first, self._slope = math.log(sigma_min), math.log(sigma_max / sigma_min) / (num_steps - 1)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma, float32 (B, 1, 1, 1) each, at times (B,): -1, or in [0, T - 1]."""
        if not t.is_floating_point():
            return super().alpha_sigma(t)
        log_variance = 2 * (self._first + self._slope * t.float())[:, None, None, None]
        return torch.sigmoid(-log_variance).sqrt(), torch.sigmoid(log_variance).sqrt()

    def half_log_snr(self, t: float) -> float:
        """Compute log(alpha / sigma) at a time in [0, T - 1]."""
        return -(self._first + self._slope * t)

    def time_of(self, half_log_snr: float) -> float:
        """Invert ``half_log_snr``, clamped to the first and last time."""
        return min(max((-half_log_snr - self._first) / self._slope, 0.0), self.num_steps - 1.0)

    def times_at(self, fraction: Tensor) -> Tensor:
        """Return the times at fractions of the process, in [0, 1]: float32 of the same shape."""
        return fraction.float() * (self.num_steps - 1)

    def times_of_noise(self, log_noise: Tensor) -> Tensor:
        """Return the times at which log(sigma / alpha) has these values, clamped to the levels: float32 (B,)."""
        return ((log_noise.float() - self._first) / self._slope).clamp(0, self.num_steps - 1)
