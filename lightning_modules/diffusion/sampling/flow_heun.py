"""Heun's method for the flow from noise to images."""

from torch import Tensor

from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep, Step
from darkroom.lightning_modules.diffusion.sampling.times import Pairs
from darkroom.lightning_modules.utils.random import Generators
from darkroom.protocols import X0Predictor


def flow_heun(
    denoise: X0Predictor,
    x: Tensor,
    pairs: Pairs,
    schedule: NoiseSchedule,
    *,
    generator: Generators = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Sample by Heun's method for the flow dz / ds = eps - x_0 of a rectified flow (Liu et al. 2022).

    Its coordinates are z = x / (alpha + sigma) and s = sigma / (alpha + sigma), which are those of ``RectifiedFlow`` and
    exist for all schedules, also where alpha is 0. Euler's step is that of ``ddim``. The model predicts twice a step, but
    once in a step that ends at the image itself: 2 n - 1 times.

    Args:
        denoise: predicts x0.
        x: noise (B, C, H, W): x at the first pair's t.
        pairs: falling times (t, t_prev); see ``time_pairs``.
        schedule: of the noise.
        generator: not used; an argument of all samplers.
        on_step: called after every step.

    Returns:
        Images (B, C, H, W): x at the last pair's t_prev.
    """
    for index, (t, t_prev) in enumerate(pairs):
        (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t_prev)
        x0 = denoise(x, t).x0
        x = alpha_prev * x0 + sigma_prev / sigma * (x - alpha * x0)  # Euler's step
        if t_prev != -1:
            x = x + correction(schedule, t, t_prev) * (x0 - denoise(x, t_prev).x0)
        if on_step is not None:
            on_step(Step(index, len(pairs), t, t_prev, x, x0))
    return x


def correction(schedule: NoiseSchedule, t: float, t_prev: float) -> float:
    """Compute the factor of x0(t) - x0(t_prev) in Heun's correction of x, half the step times the change of the velocity.

    After Euler's step, a change of x0 changes eps by -alpha_prev / sigma_prev times it, and eps - x_0 by
    -(alpha_prev + sigma_prev) / sigma_prev times it.
    """
    (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t_prev)
    scale = alpha_prev + sigma_prev
    step = sigma_prev / scale - sigma / (alpha + sigma)
    return scale * step / 2 * scale / sigma_prev
