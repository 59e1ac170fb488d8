"""Inpainting: drawing what is missing of a picture with a model that never learned to."""

from itertools import pairwise

import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.samplers import (
    Denoise,
    OnStep,
    Pairs,
    Step,
    Variance,
    ancestral_step,
    diffuse,
)
from darkroom.lightning_modules.utils.random import Generators


def repaint(
    denoise: Denoise,
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
    """RePaint (Lugmayr et al. 2022, Algorithm 1): what is known is put in at every step, with the noise of its time; going
    back and forth through the times lets the rest find what fits to it.

    Args:
        denoise: predicts the picture.
        x: noise (B, C, H, W): x at the first pair's t.
        known: pictures (B, C, H, W) in [-1, 1]; any value where they are missing.
        mask: bool or float, broadcasts with x: 1 where the picture is known, 0 where it is missing.
        pairs: times (t, t_prev), falling, each beginning where the last one ended; see ``time_pairs``.
        schedule: says what the times mean.
        jump_length: how many steps it goes back at once; j in the paper.
        resamples: how often it goes through the same steps; 1: never back. r in the paper.
        variance: see ``ancestral``.
        generator: decides the noise.
        on_step: is told of every step towards the picture, those done again too.

    Returns:
        Pictures (B, C, H, W): x at the last pair's t_prev; if that is -1, equal to ``known`` where the mask is 1.

    Raises:
        UsageError: a jump_length or resamples below 1, or a mask of another shape.
    """
    if mask.dim() > 4 or any(a not in (1, b) for a, b in zip(mask.shape[::-1], x.shape[::-1], strict=False)):
        raise UsageError(
            f"the mask's shape {tuple(mask.shape)} does not broadcast with that of pictures, {tuple(x.shape)}"
        )
    mask = mask.to(x)
    known = torch.where(mask > 0, known.to(x), 0.0)  # a NaN times 0 would be one
    way = resampling(len(pairs), jump_length, resamples)
    moves = list(pairwise(way))
    index, count = 0, sum(to < at for at, to in moves)
    for at, to in moves:
        t, t_prev = pairs[-1 - max(at, to)]  # the pair between two neighbours on the way
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


def resampling(steps: int, jump_length: int, resamples: int) -> list[int]:
    """The way through the times, from steps - 1 to -1, each one more or one less than the last (Lugmayr et al. 2022,
    section 4.2): from every jump_length-th time it goes jump_length back, resamples - 1 times.

    Raises:
        UsageError: a jump_length or resamples below 1.
    """
    if jump_length < 1 or resamples < 1:
        raise UsageError(f"jump_length is {jump_length} and resamples {resamples}; both must be at least 1")
    left = dict.fromkeys(range(0, steps - jump_length, jump_length), resamples - 1)
    way = [steps - 1]
    while way[-1] >= 0:
        if left.get(way[-1], 0):
            left[way[-1]] -= 1
            way += range(way[-1] + 1, way[-1] + jump_length + 1)
        way.append(way[-1] - 1)
    return way
