"""Sampling: which sampler draws, in how many steps, with which options of its own."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import one_of
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.samplers import (
    Denoise,
    OnStep,
    Pairs,
    Spacing,
    Variance,
    ancestral,
    ddim,
    dpm_solver_pp,
    heun,
    time_pairs,
)
from darkroom.lightning_modules.utils.random import Generators

SamplerName = Literal["ancestral", "ddim", "dpm_solver++", "heun"]
_SPACINGS: dict[str, Spacing] = {"dpm_solver++": "log_snr", "heun": "karras"}  # uniform for the others


@dataclass(frozen=True)
class Sampling:
    """A sampler by name, and its options.

    Args:
        sampler: ancestral, ddim, dpm_solver++ or heun; see ``samplers``.
        steps: of the sampler.
        spacing: of the times; None: log_snr for dpm_solver++, karras for heun, uniform for the others.
        eta: of ddim, in [0, 1].
        order: of dpm_solver++: 1, 2 or 3.
        variance: of ancestral: small, large or learned.

    Raises:
        UsageError: an option out of its range.
    """

    sampler: SamplerName = "ddim"
    steps: int = 50
    spacing: Spacing | None = None
    eta: float = 0.0
    order: int = 2
    variance: Variance = "large"

    def __post_init__(self) -> None:
        one_of("model.sampler", self.sampler, SamplerName)
        one_of("model.variance", self.variance, Variance)
        if self.spacing is not None:
            one_of("model.spacing", self.spacing, Spacing)
        if not 0 <= self.eta <= 1:
            raise UsageError(f"model.eta is {self.eta}; it is 0 (no noise) to 1 (as much as the posterior has)")
        if self.order not in (1, 2, 3):
            raise UsageError(f"model.order is {self.order}; dpm_solver++ is of order 1, 2 or 3")

    def pairs(self, schedule: NoiseSchedule) -> Pairs:
        """The times (t, t_prev) that it goes through."""
        return time_pairs(schedule, self.steps, self.spacing or _SPACINGS.get(self.sampler, "uniform"))

    def run(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        generator: Generators = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """From noise (B, C, H, W) to pictures; arguments as of ``samplers``."""
        run = {
            "ancestral": partial(ancestral, variance=self.variance),
            "ddim": partial(ddim, eta=self.eta),
            "dpm_solver++": partial(dpm_solver_pp, order=self.order),
            "heun": heun,
        }[self.sampler]
        return run(denoise, x, self.pairs(schedule), schedule, generator=generator, on_step=on_step)
