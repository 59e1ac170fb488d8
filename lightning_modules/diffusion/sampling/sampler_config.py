"""Options of sampling: sampler, number of steps, guidance and thresholds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.flow_heun import flow_heun
from darkroom.lightning_modules.diffusion.sampling.guidance import Threshold, check_interval
from darkroom.lightning_modules.diffusion.sampling.samplers import (
    OnStep,
    Variance,
    ancestral,
    check_alpha,
    ddim,
    dpm_solver_pp,
    heun,
)
from darkroom.lightning_modules.diffusion.sampling.times import Pairs, Spacing, shifted_pairs, time_pairs
from darkroom.lightning_modules.utils.arguments import check_choice
from darkroom.lightning_modules.utils.random import Generators
from darkroom.protocols import X0Predictor
from darkroom.ranges import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt

SamplerName = Literal["ancestral", "ddim", "dpm_solver++", "heun", "flow_heun"]
_SPACINGS: dict[str, Spacing] = {"dpm_solver++": "log_snr", "heun": "karras"}  # uniform for the others


@dataclass(frozen=True)
class Sampling:
    """Options of sampling: the sampler, guidance, and the threshold of predicted images.

    Args:
        sampler: ancestral (Ho et al. 2020, Algorithm 2), ddim (Euler's method of a rectified flow), dpm_solver++, heun
            (EDM) or flow_heun (Heun's method of a rectified flow); see ``samplers`` and ``flow_heun``.
        steps: of the sampler, 1 to T; None: the method's own, 50, or 20 in super-resolution.
        spacing: of the times: uniform, quadratic, log_snr or karras; None: log_snr for dpm_solver++, karras for heun,
            uniform for the others.
        shift: a of the timestep shift a s / (1 + (a - 1) s) of uniform times (Esser et al. 2024, equation 23), above 0:
            more than 1 is more steps at high noise; 1: no shift.
        eta: of ddim, in [0, 1]: 0 adds no noise, 1 as much as the posterior has.
        order: of dpm_solver++: 1, 2 or 3.
        churn: of heun, at least 0: S_churn, the noise that is added and removed over all steps; 0: no noise. With noise,
            errors of early steps are corrected, at the cost of more steps (Karras et al. 2022, section 4).
        churn_range: S_tmin and S_tmax: values of sigma / alpha with churn; None: all.
        churn_noise: S_noise, above 0: factor of the standard deviation of the added noise.
        variance: of ancestral steps, and of bits/dim, where it is not learned: small is the posterior's, large that of the
            forward step.
        guidance: weight w of the condition: 1 is the conditional model itself, 0 the unconditional one (equation 6 of Ho &
            Salimans 2022, whose w is ours minus 1); None: the method's own, 1, or 1.35 from text.
        guidance_interval: fraction of the time, of [0, 1] with 1 all noise, in which guidance is active (Kynkäänniemi et
            al. 2024); None: always.
        threshold: of the image predicted at every step: static clips it to [-1, 1]; dynamic (Saharia et al. 2022, section
            2.3); none does not clip; None: the method's own, static, or dynamic for Imagen.
        percentile: of dynamic thresholding, in (0, 1].

    Raises:
        UsageError: an option is out of its range.
    """

    sampler: SamplerName = "ddim"
    steps: PositiveInt | None = None
    spacing: Spacing | None = None
    shift: PositiveFloat = 1.0
    eta: ClosedUnitInterval = 0.0
    order: Literal[1, 2, 3] = 2
    churn: NonNegativeFloat = 0.0
    churn_range: tuple[float, float] | None = None
    churn_noise: PositiveFloat = 1.0
    variance: Variance = "large"
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    threshold: Threshold | None = None
    percentile: ClosedUnitInterval = 0.995

    def __post_init__(self) -> None:
        check_choice("model.sampling.sampler", self.sampler, SamplerName)
        check_choice("model.sampling.variance", self.variance, Variance)
        if self.spacing is not None:
            check_choice("model.sampling.spacing", self.spacing, Spacing)
        if not 0 < self.shift < math.inf:
            raise UsageError(f"model.sampling.shift must be above 0 (1: no shift), got {self.shift}")
        if not 0 <= self.eta <= 1:
            raise UsageError(
                f"model.sampling.eta must be from 0 (no noise) to 1 (as much as the posterior has), got {self.eta}"
            )
        if self.order not in (1, 2, 3):
            raise UsageError(f"model.sampling.order must be 1, 2 or 3, got {self.order}")
        self._check_churn()
        if self.threshold is not None:
            check_choice("model.sampling.threshold", self.threshold, Threshold)
        if not 0 < self.percentile <= 1:
            raise UsageError(f"model.sampling.percentile must be in (0, 1], such as 0.995, got {self.percentile}")
        check_interval(self.guidance_interval)

    def _check_churn(self) -> None:
        if not 0 <= self.churn < math.inf:
            raise UsageError(f"model.sampling.churn must be at least 0 (0: no noise), got {self.churn}")
        low, high = self.churn_range or (0.0, math.inf)
        if not 0 <= low < high:
            raise UsageError(
                f"model.sampling.churn_range must be two ascending values of sigma / alpha, from 0, got {low} and {high}"
            )
        if not 0 < self.churn_noise < math.inf:
            raise UsageError(f"model.sampling.churn_noise must be above 0, got {self.churn_noise}")

    def with_defaults(self, **defaults: Any) -> "Sampling":
        """Return a copy with these values for options that are None."""
        return replace(self, **{name: value for name, value in defaults.items() if vars(self)[name] is None})

    def pairs(self, schedule: NoiseSchedule, key: str = "model.sampling.steps") -> Pairs:
        """Compute the times (t, t_prev) of all steps.

        Args:
            schedule: of the noise.
            key: setting that error messages name.

        Raises:
            UsageError: the schedule has fewer steps, the sampler is not defined for it, or a shift of other times.
        """
        assert self.steps is not None, "a method's defaults come first"
        spacing = self.spacing or _SPACINGS.get(self.sampler, "uniform")
        if self.shift != 1 and spacing != "uniform":
            raise UsageError(
                f"model.sampling.shift is {self.shift}, but shifts uniform times only; set model.sampling.spacing uniform, "
                f"got {spacing}"
            )
        if self.shift != 1:
            pairs = shifted_pairs(schedule, self.steps, self.shift, key)
        else:
            pairs = time_pairs(schedule, self.steps, spacing, key)
        if self.sampler == "heun":
            check_alpha(pairs, schedule)
        return pairs

    def run(
        self,
        denoise: X0Predictor,
        x: Tensor,
        schedule: NoiseSchedule,
        generator: Generators = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Sample images from noise (B, C, H, W); see ``samplers`` for the arguments."""
        churn_range = self.churn_range or (0.0, math.inf)
        samplers: dict[SamplerName, Callable[..., Tensor]] = {
            "ancestral": partial(ancestral, variance=self.variance),
            "ddim": partial(ddim, eta=self.eta),
            "dpm_solver++": partial(dpm_solver_pp, order=self.order),
            "flow_heun": flow_heun,
            "heun": partial(heun, churn=self.churn, churn_range=churn_range, churn_noise=self.churn_noise),
        }
        run = samplers[self.sampler]
        return run(denoise, x, self.pairs(schedule), schedule, generator=generator, on_step=on_step)
