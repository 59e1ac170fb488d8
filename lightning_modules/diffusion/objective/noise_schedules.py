"""Noise schedules of the forward process."""

import math
from bisect import bisect_left
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.precision import KeepFloat32


class NoiseSchedule(KeepFloat32):
    """Base of the schedules. q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I), t = 0 ... T - 1, alpha_t^2 + sigma_t^2 = 1.

    alpha_t^2 is DDPM's alphas_cumprod. Time -1 is the image itself: alpha 1, sigma 0. Coefficients are computed in float64.
    Training reads them from float32 tables on the device, which stay float32 when the module is cast. Samplers read them
    from ``at``, which returns Python floats and never synchronizes with the device.

    Training samples whole times, or real-valued ones of a ``continuous`` schedule (``continuous_schedules``).

    Args:
        betas: float64 (T,), each in (0, 1): the variance that step t adds.
        ends_in_noise: the last beta is 1: x at the last time is noise alone, alpha 0 and SNR 0.

    Raises:
        UsageError: fewer than two steps, or a beta out of its range.
    """

    continuous: ClassVar[bool] = False  # trained at real-valued times
    variance_preserving: ClassVar[bool] = True  # alpha^2 + sigma^2 = 1
    alphas: Tensor
    sigmas: Tensor
    betas: Tensor

    def __init__(self, betas: Tensor, ends_in_noise: bool = False) -> None:
        super().__init__()
        betas, self.ends_in_noise = betas.double(), ends_in_noise
        inside = (betas > 0) & (betas < 1)
        if ends_in_noise:
            inside[-1:] = betas[-1:] == 1
        wrong = int((~inside).sum())
        if len(betas) < 2 or wrong:
            raise UsageError(
                f"model.schedule.betas has {len(betas)} values, {wrong} of them not in (0, 1); give at least 2, all "
                "in (0, 1)"
            )
        self.num_steps = len(betas)
        log_kept = torch.log1p(-betas).cumsum(0)  # log alphas_cumprod
        log_lost = torch.log(-torch.expm1(log_kept))
        self._half_log_snr = ((log_kept - log_lost) / 2).tolist()  # log(alpha / sigma)
        # The last entry, found by index -1, is time -1.
        alphas, sigmas = F.pad((log_kept / 2).exp(), (0, 1), value=1.0), F.pad((log_lost / 2).exp(), (0, 1))
        self.register_buffer("alphas", alphas.float(), persistent=False)
        self.register_buffer("sigmas", sigmas.float(), persistent=False)
        self.register_buffer("betas", betas.float(), persistent=False)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma, float32 (B, 1, 1, 1) each, at times int64 (B,), -1 ... T - 1.

        Continuous schedules also take times float32 (B,).
        """
        return self.alphas[t][:, None, None, None], self.sigmas[t][:, None, None, None]

    def beta(self, t: Tensor) -> Tensor:
        """Return the variance of the step to times int64 (B,), 0 ... T - 1: float32 (B, 1, 1, 1)."""
        return self.betas[t][:, None, None, None]

    def large_variance(self, t: Tensor) -> Tensor:
        """Return the variance of the reverse step from times int64 (B,) if x_0 is standard normal: float32 (B, 1, 1, 1).

        It is beta_t where alpha^2 + sigma^2 = 1 (Ho et al. 2020, section 3.2).
        """
        return self.beta(t)

    def power(self, t: float) -> float:
        """Return alpha^2 + sigma^2 at one time: the variance of x_t for images of variance 1."""
        return 1.0

    def times_at(self, fraction: Tensor) -> Tensor:
        """Return the times at fractions of the process, in [0, 1] with 1 all noise: int64 of the same shape."""
        return (fraction * self.num_steps).long().clamp(max=self.num_steps - 1)

    def times_of_noise(self, log_noise: Tensor) -> Tensor:
        """Return the first times at which log(sigma / alpha) is at least as large as given: int64 (B,)."""
        noise = self.sigmas[:-1] / self.alphas[:-1]
        return torch.searchsorted(noise, log_noise.exp()).clamp(max=self.num_steps - 1)

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Compute x_t = alpha_t x_0 + sigma_t noise (Ho et al. 2020, equation 4) at times int64 (B,)."""
        alpha, sigma = self.alpha_sigma(t)
        return alpha * x + sigma * noise

    def at(self, t: float) -> tuple[float, float]:
        """Return alpha and sigma at one time, also between two steps, where log SNR is linear; -1: (1, 0)."""
        if t == -1:
            return 1.0, 0.0
        log_snr = 2 * self.half_log_snr(t)
        return math.sqrt(1 / (1 + math.exp(-log_snr))), math.sqrt(1 / (1 + math.exp(log_snr)))

    def half_log_snr(self, t: float) -> float:
        """Compute log(alpha / sigma) at a time in [0, T - 1], the lambda of DPM-Solver; falls with t.

        If x_T is noise alone, alpha falls linearly to 0 in the last step, and this to -inf.
        """
        if self.ends_in_noise and t >= self.num_steps - 2:
            alpha = self._last_alpha * (self.num_steps - 1 - t)
            return math.log(alpha) - math.log1p(-(alpha**2)) / 2 if alpha > 0 else -math.inf
        below = min(int(t), self.num_steps - 2)
        low, high = self._half_log_snr[below : below + 2]
        return low + (high - low) * (t - below)

    def time_of(self, half_log_snr: float) -> float:
        """Invert ``half_log_snr``, clamped to the first and last time."""
        if self.ends_in_noise and half_log_snr <= self._half_log_snr[-2]:
            return self.num_steps - 1 - _alpha_of(half_log_snr) / self._last_alpha
        above = bisect_left(self._half_log_snr, -half_log_snr, lo=1, hi=self.num_steps - 1, key=lambda value: -value)
        low, high = self._half_log_snr[above - 1 : above + 1]
        return min(max(above - 1 + (half_log_snr - low) / (high - low), 0.0), self.num_steps - 1.0)

    @property
    def _last_alpha(self) -> float:
        """Alpha at T - 2, the last one above 0 if x_T is noise alone."""
        return _alpha_of(self._half_log_snr[-2])


class LinearSchedule(NoiseSchedule):
    """Linear betas (Ho et al. 2020, section 4), scaled so that any number of steps ends as noisy as 1000 do.

    The scale 1000 / T is that of Improved DDPM's code.

    Args:
        num_steps: T.
        start: the first beta of 1000 steps.
        end: the last one, at least ``start``.

    Raises:
        UsageError: an argument out of its range, or T so small that a beta would reach 1.
    """

    def __init__(self, num_steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> None:
        if not 0 < start < math.inf:
            raise UsageError(f"model.schedule.start, the first beta of 1000 steps, must be above 0, got {start}")
        if not start <= end < math.inf:
            raise UsageError(
                f"model.schedule.end, the last beta of 1000 steps, must be at least start ({start}), got {end}"
            )
        smallest = max(2, math.floor(1000 * end) + 1)  # of which the last beta is below 1
        if num_steps < smallest:
            raise UsageError(
                f"model.schedule.num_steps must be at least {smallest}, or a beta would reach 1, got {num_steps}; lower "
                f"model.schedule.end ({end}), or use CosineSchedule"
            )
        super().__init__(line(start, end, num_steps) * (1000 / num_steps))


class CosineSchedule(NoiseSchedule):
    """Schedule whose alphas_cumprod falls as a squared cosine (Nichol & Dhariwal 2021, equation 17).

    Args:
        num_steps: T, at least 2.
        s: offset, at least 0, that keeps the first betas from being too small.
        max_beta: no beta is larger, in (0, 1); the last would be 1 (section 3.2).

    Raises:
        UsageError: an argument out of its range.
    """

    def __init__(self, num_steps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> None:
        if not 0 <= s < math.inf:
            raise UsageError(f"model.schedule.s must be at least 0, such as 0.008, got {s}")
        if not 0 < max_beta < 1:
            raise UsageError(f"model.schedule.max_beta must be in (0, 1), got {max_beta}")
        check_steps(num_steps)
        time = line(0, 1, num_steps + 1)
        super().__init__(betas_of(torch.cos((time + s) / (1 + s) * math.pi / 2).square(), max_beta))


class ZeroTerminalSNR(NoiseSchedule):
    """Another schedule, rescaled to SNR 0 at the last time (Lin et al. 2023, Algorithm 1).

    Training then includes noise alone, from which samplers start. Otherwise, the network learns the mean brightness of an
    image from x_T, which a sampler's noise does not have. The network must not predict eps, which does not determine the
    image at SNR 0 (section 3.2).

    Args:
        schedule: to be rescaled; None: ``LinearSchedule``.

    Raises:
        UsageError: a schedule of another kind, such as one that already ends at SNR 0.
    """

    def __init__(self, schedule: NoiseSchedule | None = None) -> None:
        schedule = schedule or LinearSchedule()
        if schedule.continuous or schedule.ends_in_noise:
            raise UsageError(
                "model.schedule.schedule must be of whole times and end above SNR 0, such as LinearSchedule, "
                f"got {type(schedule).__name__}"
            )
        alphas = torch.tensor([schedule.at(t)[0] for t in range(schedule.num_steps)], dtype=torch.float64, device="cpu")
        alphas = (alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))  # Algorithm 1: shift, then scale
        super().__init__(betas_of(F.pad(alphas.square(), (1, 0), value=1.0), max_beta=1.0), ends_in_noise=True)


class SigmoidSchedule(NoiseSchedule):
    """Schedule whose alphas_cumprod falls as a sigmoid (Jabri et al. 2022, figure 8; Chen 2023, section 2.1).

    Betas are capped at 0.999, as the cosine's are: the last would be 1.

    Args:
        num_steps: T, at least 2.
        start: where on the sigmoid time begins.
        end: where it ends, above ``start``.
        tau: temperature, above 0; the smaller, the steeper in the middle.

    Raises:
        UsageError: an argument out of its range, or a sigmoid so steep that its ends are flat in float64.
    """

    def __init__(self, num_steps: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> None:
        if not -math.inf < start < end < math.inf:
            raise UsageError(f"model.schedule.start must be below model.schedule.end, got {start} and {end}")
        if not 0 < tau < math.inf:
            raise UsageError(f"model.schedule.tau must be above 0, got {tau}")
        check_steps(num_steps)
        left = torch.sigmoid(-line(start, end, num_steps + 1) / tau)
        betas = betas_of(left - left[-1], max_beta=0.999)
        if not (betas > 0).all():
            raise UsageError(
                f"model.schedule.tau is {tau}, with which the sigmoid from {start} to {end} is flat at its ends: some "
                "steps would add no noise; raise tau, or bring start and end nearer to 0"
            )
        super().__init__(betas)


def check_steps(num_steps: int) -> None:
    """Raise a UsageError for fewer than two steps."""
    if num_steps < 2:
        raise UsageError(f"model.schedule.num_steps must be at least 2, got {num_steps}")


def line(start: float, end: float, count: int) -> Tensor:
    """Return evenly spaced numbers, float64 (count,)."""
    # On the CPU also within torch.device("meta") or of a device without float64.
    return torch.linspace(start, end, count, dtype=torch.float64, device="cpu")


def betas_of(alphas_cumprod: Tensor, max_beta: float) -> Tensor:
    """Compute betas (T,), capped, of alphas_cumprod float64 (T + 1,) after 0 ... T steps, in any scale."""
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=max_beta)


def _alpha_of(half_log_snr: float) -> float:
    return 0.0 if half_log_snr == -math.inf else math.sqrt(1 / (1 + math.exp(-2 * half_log_snr)))
