"""Time embeddings: sinusoids of many frequencies."""

import math

import torch
from torch import Tensor

from darkroom.lightning_modules.utils.precision import KeepFloat32


class Waves(KeepFloat32):
    """Sines, then cosines, of times (B,): float32 (B, 2 F), also when the module is cast. Times may be fractions.

    Args:
        frequencies: float32 (F,), in radians per step.
        persistent: save the frequencies in checkpoints, as random ones must be.
    """

    frequencies: Tensor

    def __init__(self, frequencies: Tensor, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies, persistent=persistent)

    def forward(self, t: Tensor) -> Tensor:
        phases = t.float()[:, None] * self.frequencies
        return torch.cat([phases.sin(), phases.cos()], 1)


class Sinusoidal(Waves):
    """Frequencies from 1 down to 1/10000 in equal ratios (Vaswani et al. 2017, section 3.5, as Ho et al. 2020 have it).

    Args:
        channels: even, at least 4: half of them sines.
    """

    def __init__(self, channels: int) -> None:
        exponents = torch.linspace(0, 1, channels // 2, dtype=torch.float64)
        super().__init__(torch.exp(-math.log(10000) * exponents).float(), persistent=False)


class RandomFourier(Waves):
    """Frequencies sampled once from N(0, 16^2), in turns per 1000 steps (Tancik et al. 2020).

    The deviation 16 is that of NCSN++ (Song et al. 2021, "Score-Based Generative Modeling through SDEs", appendix H.2).
    The unit is 1000 steps, as in DDPM, for a schedule of any length. With one step as the unit, 16 turns would lie between
    neighbouring times, and their embeddings would be unrelated.

    Args:
        channels: even, at least 2: half of them sines.
    """

    def __init__(self, channels: int) -> None:
        frequencies = 16 * torch.randn(channels // 2, dtype=torch.float32)
        super().__init__(2 * math.pi / 1000 * frequencies, persistent=True)
