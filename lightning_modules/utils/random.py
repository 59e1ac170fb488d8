"""Noise as a function of generators."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from darkroom.errors import UsageError

Generators = torch.Generator | Sequence[torch.Generator] | None  # several: one for each row; None: torch's global one


def sample_noise(
    shape: Sequence[int], device: torch.device, generator: Generators = None, uniform: bool = False
) -> Tensor:
    """Sample normal noise, or uniform in [0, 1): float32 on the device, computed on the generator's device.

    Args:
        shape: of the noise.
        device: of the result.
        generator: determines the noise; a list has one for each row; None: torch's global one.
        uniform: sample uniform instead of normal noise.
    """
    sample = partial(torch.rand if uniform else torch.randn, dtype=torch.float32)
    if isinstance(generator, Sequence):
        if len(generator) != shape[0]:
            raise UsageError(f"generator must be one, or one for each of {shape[0]} images, got {len(generator)}")
        return torch.stack([sample(shape[1:], generator=g, device=g.device) for g in generator]).to(device)
    where = device if generator is None else generator.device
    return sample(shape, generator=generator, device=where).to(device)
