"""Time embeddings: a time as waves of many frequencies, which a network can tell from its neighbours."""

import math

import torch
from torch import Tensor

from darkroom.lightning_modules.utils.precision import KeepFloat32


class Waves(KeepFloat32):
    """Times (B,), whole or between two steps -> their sines, then their cosines: float32 (B, 2 F), whatever else is cast.

    Args:
        frequencies: float32 (F,), in radians per step.
        persistent: kept in checkpoints, as what was drawn must be.
    """

    def __init__(self, frequencies: Tensor, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies, persistent=persistent)

    def forward(self, t: Tensor) -> Tensor:
        phases = t.float()[:, None] * self.frequencies
        return torch.cat([phases.sin(), phases.cos()], 1)


class Sinusoidal(Waves):
    """Frequencies from 1 down to 1/10000 in equal ratios (Vaswani et al. 2017, section 3.5, as Ho et al. 2020 have it).

    Args:
        channels: even, from 4 up: half of them sines.
    """

    def __init__(self, channels: int) -> None:
        exponents = torch.linspace(0, 1, channels // 2, dtype=torch.float64)
        super().__init__(torch.exp(-math.log(10000) * exponents).float(), persistent=False)


class RandomFourier(Waves):
    """Frequencies from N(0, 16^2), drawn once, in turns per 1000 steps (Tancik et al. 2020; Song et al. 2021, appendix C).

    In turns per step neighbouring times would have nothing in common: 16 turns pass between them. DDPM's 1000 steps are one
    unit; so are they for a schedule of any other length, which need not be known here.

    Args:
        channels: even, from 2 up: half of them sines.
    """

    def __init__(self, channels: int) -> None:
        frequencies = 16 * torch.randn(channels // 2, dtype=torch.float32)
        super().__init__(2 * math.pi / 1000 * frequencies, persistent=True)
