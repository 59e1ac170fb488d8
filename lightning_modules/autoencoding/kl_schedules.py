"""Schedules of beta, the weight of a VAE's KL term: pure functions of the fit's progress."""

from math import floor
from typing import ClassVar

from darkroom.errors import UsageError


class KLSchedule:
    """Base of the schedules: beta as a function of the fit's progress in [0, 1] and of the number of values in an image."""

    needs_progress: ClassVar[bool] = True

    def __call__(self, progress: float, values: int) -> float:
        """Compute beta at a ``progress`` in [0, 1], for images of ``values`` = C H W numbers."""
        raise NotImplementedError


class Constant(KLSchedule):
    """Constant beta: 1 is the evidence lower bound, larger a beta-VAE (Higgins et al. 2017, equation 4).

    Args:
        beta: at least 0.
    """

    needs_progress = False

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = _weight(self, "beta", beta)

    def __call__(self, progress: float, values: int) -> float:
        return self.beta


class WarmUp(KLSchedule):
    """Linear warm-up from 0 to beta, then constant (Bowman et al. 2016, section 3.1; Sønderby et al. 2016).

    Args:
        beta: at the end of the warm-up, at least 0.
        fraction: of the fit that warms up, in (0, 1].
    """

    def __init__(self, beta: float = 1.0, fraction: float = 0.1) -> None:
        self.beta, self.fraction = _weight(self, "beta", beta), _fraction(self, "fraction", fraction)

    def __call__(self, progress: float, values: int) -> float:
        return self.beta * min(1.0, progress / self.fraction)


class Cyclical(KLSchedule):
    """Several warm-ups, one after another (Fu et al. 2019, linear: ``ramp`` is R and ``cycles`` M there).

    Args:
        beta: at the end of each cycle, at least 0.
        cycles: how many, at least 1.
        ramp: fraction of each cycle that warms up, in (0, 1].
    """

    def __init__(self, beta: float = 1.0, cycles: int = 4, ramp: float = 0.5) -> None:
        if cycles < 1:
            raise UsageError(f"Cyclical.cycles must be at least 1, got {cycles}")
        self.beta, self.cycles, self.ramp = _weight(self, "beta", beta), cycles, _fraction(self, "ramp", ramp)

    def __call__(self, progress: float, values: int) -> float:
        if progress >= 1:
            return self.beta  # at progress 1 the end of the last cycle, not the start of another
        through = progress * self.cycles - floor(progress * self.cycles)
        return self.beta * min(1.0, through / self.ramp)


class PixelMeanWeight(KLSchedule):
    """Beta equivalent to a loss of "mean squared error over pixels + kl_weight KL", beside Gaussian(sigma=1).

    With N values in an image, -log p(x|z) + beta KL is N / 2 (mean squared error + 2 beta / N KL) plus a constant. Both
    losses have the same minimum for beta = kl_weight N / 2, with gradients N / 2 times as large. A weight of .00025 is a
    beta of 1.5 at 3 x 64 x 64, and another beta at another image size.

    Args:
        kl_weight: at least 0; called M_N where this parameterisation is used.
    """

    needs_progress = False

    def __init__(self, kl_weight: float = 0.00025) -> None:
        self.kl_weight = _weight(self, "kl_weight", kl_weight)

    def __call__(self, progress: float, values: int) -> float:
        return self.kl_weight * values / 2


def _weight(schedule: KLSchedule, name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise UsageError(f"{type(schedule).__name__}.{name} must be a finite number, at least 0, got {value}")
    return value


def _fraction(schedule: KLSchedule, name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise UsageError(f"{type(schedule).__name__}.{name} must be a fraction in (0, 1], got {value}")
    return value
