"""Inpainting with a model that was not trained for it."""

from itertools import pairwise

import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.samplers import (
    OnStep,
    Step,
    Variance,
    ancestral_step,
    diffuse,
)
from darkroom.lightning_modules.diffusion.sampling.times import Pairs
from darkroom.lightning_modules.utils.random import Generators
from darkroom.protocols import X0Predictor


def repaint(
    denoise: X0Predictor,
    x: Tensor,
    known: Tensor,
    mask: Tensor,
    pairs: Pairs,
    schedule: NoiseSchedule,
    *,
    jump_length: int = 10,
    resamples: int = 10,
    variance: Variance = "large",
    generator: Generators = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Inpaint by RePaint (Lugmayr et al. 2022, Algorithm 1): every step inserts the known part with the noise of its time.
    Jumps back in time and repeated steps harmonize the unknown part with it.

    Args:
        denoise: predicts x0.
        x: noise (B, C, H, W): x at the first pair's t.
        known: images (B, C, H, W) in [-1, 1], with any value where they are missing.
        mask: bool or float, broadcasts with x: 1 where the image is known, 0 where it is missing.
        pairs: falling times (t, t_prev), each starting where the last one ended; see ``time_pairs``.
        schedule: of the noise.
        jump_length: number of steps of a jump back; j in the paper.
        resamples: number of times that the same steps are taken; 1: no jumps. r in the paper.
        variance: see ``ancestral``.
        generator: determines the noise.
        on_step: called after every step towards the image, also repeated ones.

    Returns:
        Images (B, C, H, W): x at the last pair's t_prev; if that is -1, equal to ``known`` where the mask is 1.

    Raises:
        UsageError: a jump_length or resamples below 1, or a mask of another shape.
    """
    if mask.dim() > 4 or any(a not in (1, b) for a, b in zip(mask.shape[::-1], x.shape[::-1], strict=False)):
        raise UsageError(f"mask must broadcast to the shape of the images, {tuple(x.shape)}, got {tuple(mask.shape)}")
    mask = mask.to(x)
    known = torch.where(mask > 0, known.to(x), 0.0)  # NaN times 0 is NaN
    times = resampling_times(len(pairs), jump_length, resamples)
    moves = list(pairwise(times))
    index, count = 0, sum(to < at for at, to in moves)
    for at, to in moves:
        t, t_prev = pairs[-1 - max(at, to)]  # the pair between two neighbours of the sequence
        if to > at:
            x = diffuse(x, schedule, t_prev, t, generator)  # line 10
            continue
        denoised = denoise(x, t)
        unknown = ancestral_step(denoised, x, schedule, t, t_prev, variance, generator)  # line 7
        x = mask * diffuse(known, schedule, -1, t_prev, generator) + (1 - mask) * unknown  # lines 5 and 8
        if on_step is not None:
            on_step(Step(index, count, t, t_prev, x, denoised.x0))
        index += 1
    return x


def resampling_times(steps: int, jump_length: int, resamples: int) -> list[int]:
    """Compute the sequence of times from steps - 1 to -1, each one more or one less than the last (Lugmayr et al. 2022,
    section 4.2). From every jump_length-th time it jumps back by jump_length, resamples - 1 times.

    Raises:
        UsageError: a jump_length or resamples below 1.
    """
    if jump_length < 1 or resamples < 1:
        raise UsageError(f"jump_length and resamples must be at least 1, got {jump_length} and {resamples}")
    left = dict.fromkeys(range(0, steps - jump_length, jump_length), resamples - 1)
    times = [steps - 1]
    while times[-1] >= 0:
        if left.get(times[-1], 0):
            left[times[-1]] -= 1
            times += range(times[-1] + 1, times[-1] + jump_length + 1)
        times.append(times[-1] - 1)
    return times
