"""Times of a sampler's steps."""

import math
from collections.abc import Sequence
from typing import Literal

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.utils.arguments import check_choice

Spacing = Literal["uniform", "quadratic", "log_snr", "karras"]
Pairs = Sequence[tuple[float, float]]  # (t, t_prev); -1 is the image itself
NOISIEST = 80.0  # sigma / alpha


def time_pairs(
    schedule: NoiseSchedule, steps: int, spacing: Spacing = "uniform", key: str = "model.sampling.steps"
) -> list[tuple[float, float]]:
    """Compute the pairs (t, t_prev) of a sampler's steps: each starts where the last one ended, the last one ends at -1.

    Args:
        schedule: of the noise.
        steps: number of pairs, at least 1.
        spacing: uniform and quadratic (Song et al. 2021, appendix D.2; denser towards the image) are distinct integers from
            T - 1 down, so at most T. log_snr is even in log SNR (Lu et al. 2022b), karras in (sigma / alpha)^(1 / 7)
            (Karras et al. 2022, equation 5). Their times are fractions. If there are two pairs or more, the last is (0,
            -1). The first starts where sigma / alpha is 80, as in EDM, if T - 1 is noisier: earlier steps would change
            nothing, and cost Heun's method precision. It starts at T - 1 if x_T is noise alone (Lin et al. 2023, section
            3.3).
        key: setting that error messages name.

    Raises:
        UsageError: fewer than 1 step, or more than the schedule has.
    """
    whole = check_choice("model.sampling.spacing", spacing, Spacing) in ("uniform", "quadratic")
    if steps < 1 or (whole and steps > schedule.num_steps):
        most = f" and at most the schedule's {schedule.num_steps}" if whole else ""
        raise UsageError(f"{key} must be at least 1{most} with {spacing} spacing, got {steps}")
    times = (_whole_times if whole else _fractional_times)(schedule, steps, spacing)
    return list(zip(times, [*times[1:], -1], strict=True))


def shifted_pairs(schedule: NoiseSchedule, steps: int, shift: float, key: str) -> list[tuple[float, float]]:
    """Compute the pairs (t, t_prev) of uniform fractions s of the time, shifted to more noise (Esser et al. 2024, equation
    23).

    Args:
        schedule: of the noise.
        steps: number of pairs, at least 1.
        shift: sqrt(m / n) of the paper, above 0; 1: no shift.
        key: setting that error messages name.

    Raises:
        UsageError: fewer than 1 step, or times before the schedule's first one.
    """
    if steps < 1:
        raise UsageError(f"{key} must be at least 1, got {steps}")
    fractions = [shift * i / (steps + (shift - 1) * i) for i in range(steps, 0, -1)]  # equation 23 of s = i / steps
    times = [fraction * schedule.num_steps - 1 for fraction in fractions]
    if times[-1] < 0:
        raise UsageError(
            f"{key} is {steps}, and with model.sampling.shift {shift} the last of these times is below the schedule's "
            "first; use fewer steps or a larger shift"
        )
    return list(zip(times, [*times[1:], -1], strict=True))


def _whole_times(schedule: NoiseSchedule, steps: int, spacing: Spacing) -> list[int]:
    total, power = schedule.num_steps, 1 if spacing == "uniform" else 2
    # Near the image squares are less than a step apart, so every step is taken there.
    return [max(i, round(total * (i / steps) ** power)) - 1 for i in range(steps, 0, -1)]


def _fractional_times(schedule: NoiseSchedule, steps: int, spacing: Spacing) -> list[float]:
    rho = 7
    noisiest, cleanest = (-schedule.half_log_snr(t) for t in (schedule.num_steps - 1, 0))  # log(sigma / alpha)
    first, last = min(noisiest, math.log(NOISIEST)), cleanest
    if spacing == "karras":
        first, last = math.exp(first / rho), math.exp(last / rho)
    levels = [first + (last - first) * i / max(steps - 1, 1) for i in range(steps)]
    if spacing == "karras":
        levels = [rho * math.log(level) for level in levels]
    times = [round(schedule.time_of(-level), 9) for level in levels]  # integers at the ends
    return [schedule.num_steps - 1, *times[1:]] if schedule.ends_in_noise else times
