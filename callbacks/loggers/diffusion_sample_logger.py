"""DiffusionSampleLogger: samples of a diffusion model from the same noise, by class and by guidance weight."""

from collections.abc import Sequence
from typing import Literal

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import generators, logged_step
from darkroom.callbacks.loggers.sample_logger import SampleLogger
from darkroom.callbacks.plotting.grids import expand_to_rgb, image_grid, image_groups, near_square, spread_indices
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.errors import UsageError
from darkroom.protocols import DiffusionModel, GuidedModel

_MOST_CLASSES, _MOST_COLUMNS = 10, 16
_CHUNK = 64  # images sampled at once


class DiffusionSampleLogger(SampleLogger):
    """Samples from the same noise after every validation, to show progress.

    A conditional model has a row per class, for at most 10 classes, and a group of columns per guidance weight. A column
    starts from one noise in all rows and groups: only class and weight differ. Otherwise equal to ``SampleLogger``.

    Args:
        num_samples: number of samples; with classes an approximate number, equal for each class and weight.
        guidance: guidance weights, for a conditional model: 1 is the conditional model itself, 0 the unconditional one.
        sampler: ancestral, ddim, dpm_solver++, heun or flow_heun; None: the model's own.
        steps: number of steps of the sampler; None: the model's own.
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
        seed: seed of the noise.
        animation: write the animation of all steps when a fit ends.
    """

    needs = DiffusionModel
    supported = "DDPM"

    def __init__(
        self,
        num_samples: int = 90,
        guidance: Sequence[float] = (1.0, 2.0, 4.0),
        sampler: Literal["ancestral", "ddim", "dpm_solver++", "heun", "flow_heun"] | None = None,
        steps: int | None = None,
        every_n_validations: int = 1,
        seed: int = 0,
        animation: bool = True,
    ) -> None:
        super().__init__(num_samples, every_n_validations, seed, animation)
        if not guidance:
            raise UsageError(
                f"{type(self).__name__}.guidance is empty; it must have one weight at least, such as [1.0]"
            )
        self.guidance, self.sampler, self.steps = list(guidance), sampler, steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self.require(pl_module, DiffusionModel).num_classes is not None:
            check_guidance(self, self.guidance, pl_module)

    def draw(self, trainer: Trainer, module: LightningModule, class_names: Sequence[str]) -> ImagePage:
        """Draw samples: with classes a row per class and a group of columns per guidance weight."""
        model, title = self.require(module, DiffusionModel), f"step {logged_step(trainer)}"
        if model.num_classes is None:
            images = self._sample(trainer, model, generators(self.seed, self.num_samples))
            return image_grid(images.split(near_square(self.num_samples)), title=title)
        weights = len(self.guidance)
        classes = spread_indices(model.num_classes, min(_MOST_CLASSES, max(1, self.num_samples // weights)))
        columns = max(1, min(_MOST_COLUMNS, self.num_samples // len(classes)) // weights)
        labels, groups = torch.tensor(classes).repeat_interleave(columns), []
        for weight in self.guidance:
            noise = [one for _ in classes for one in generators(self.seed, columns)]
            groups.append(self._sample(trainer, model, noise, labels, weight))
        heads = [f"guidance {weight:g}" for weight in self.guidance]
        return image_groups(groups, [class_names[k] for k in classes], heads, title)

    def _sample(
        self,
        trainer: Trainer,
        model: DiffusionModel,
        noise: Sequence[torch.Generator],
        labels: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Sample images uint8 (N, 3, H, W), one for each generator."""
        images = []
        with trainer.precision_plugin.forward_context():
            for some in torch.arange(len(noise)).split(_CHUNK):
                sampled = model.sample(
                    len(some),
                    labels=None if labels is None else labels[some],
                    guidance=guidance,
                    sampler=self.sampler,
                    steps=self.steps,
                    generator=[noise[index] for index in some.tolist()],
                )
                images.append(expand_to_rgb(model.to_uint8(sampled)))
        return torch.cat(images)


def check_guidance(callback: object, guidance: Sequence[float], module: LightningModule) -> None:
    """Raise a UsageError for guidance weights other than 1 if the model cannot be guided."""
    guided = [weight for weight in guidance if weight != 1]
    reason = module.unguided if isinstance(module, GuidedModel) else None
    if guided and reason:
        raise UsageError(f"{type(callback).__name__}.guidance has {guided[0]}, but {reason}; or set it to [1.0]")
