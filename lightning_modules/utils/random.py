"""Noise that generators decide."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from darkroom.errors import UsageError

Generators = torch.Generator | Sequence[torch.Generator] | None  # several: one for each row; None: torch's global one


def draw_noise(
    shape: Sequence[int], device: torch.device, generator: Generators = None, uniform: bool = False
) -> Tensor:
    """Normal noise, or uniform in [0, 1): float32 on the device, drawn where the generator is.

    Args:
        shape: of the noise.
        device: where it is needed.
        generator: decides it; of several, each its own row; None: torch's global one.
        uniform: not normal.
    """
    draw = partial(torch.rand if uniform else torch.randn, dtype=torch.float32)
    if isinstance(generator, Sequence):
        if len(generator) != shape[0]:
            raise UsageError(f"{len(generator)} generators are given for {shape[0]} pictures; give one for each")
        return torch.stack([draw(shape[1:], generator=g, device=g.device) for g in generator]).to(device)
    where = device if generator is None else generator.device
    return draw(shape, generator=generator, device=where).to(device)
