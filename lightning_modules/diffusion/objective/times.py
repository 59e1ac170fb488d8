"""Distributions of the times that training samples."""

import math

import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule


class TimeDistribution:
    """Base of the distributions of training times. Subclasses define ``quantile``.

    Times are whole steps of the schedule, int64, or float32 if it is continuous.
    """

    def quantile(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the times (B,) below which fractions u of (0, 1], float32 (B,), of the distribution are."""
        raise NotImplementedError

    def sample(self, count: int, schedule: NoiseSchedule, device: torch.device) -> Tensor:
        """Sample times (count,)."""
        return self.quantile(1 - torch.rand(count, dtype=torch.float32, device=device), schedule)  # never 0


class UniformTimes(TimeDistribution):
    """All times are equally likely (Ho et al. 2020, Algorithm 1, line 3)."""

    def quantile(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the times (B,) at fractions u of the process."""
        return schedule.times_at(u)

    def sample(self, count: int, schedule: NoiseSchedule, device: torch.device) -> Tensor:
        """Sample times (count,)."""
        if schedule.continuous:
            return super().sample(count, schedule, device)
        return torch.randint(schedule.num_steps, (count,), device=device)


class LogitNormalTimes(TimeDistribution):
    """log(s / (1 - s)) of the fraction s = (t + 1) / T is normal (Esser et al. 2024, equation 19): few times at both ends.

    A mean above 0 is more noise. The timestep shift a of equation 23 adds log(a) to it.

    Args:
        mean: m of the paper.
        std: its s, above 0.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        self.mean, self.std = check_normal(mean, std)

    def quantile(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the times (B,) of the quantiles u of s."""
        return schedule.times_at(torch.sigmoid(self.mean + self.std * torch.special.ndtri(u)))  # equation 19


class LogNormalSigma(TimeDistribution):
    """The logarithm of sigma / alpha is normal (Karras et al. 2022, Table 1, p_train).

    Noise levels out of the schedule's range become its first or last time.

    Args:
        mean: P_mean.
        std: P_std, above 0.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        self.mean, self.std = check_normal(mean, std)

    def quantile(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Return the times (B,) of the quantiles u of the noise level."""
        return schedule.times_of_noise(self.mean + self.std * torch.special.ndtri(u))


def check_normal(mean: float, std: float) -> tuple[float, float]:
    """Return mean and standard deviation of a normal distribution; raise a UsageError if they are invalid."""
    if not math.isfinite(mean):
        raise UsageError(f"model.objective.times.mean must be a finite number, got {mean}")
    if not 0 < std < math.inf:
        raise UsageError(f"model.objective.times.std must be above 0, got {std}")
    return mean, std
