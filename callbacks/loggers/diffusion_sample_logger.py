"""DiffusionSampleLogger: what a diffusion model draws from the same noise, by class and by weight of guidance."""

from collections.abc import Sequence
from typing import Literal

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import generators, steps_taken
from darkroom.callbacks.loggers.sample_logger import SampleLogger
from darkroom.callbacks.plotting.grids import as_pictures, near_square, picture_grid, picture_groups, spread
from darkroom.errors import UsageError

_MOST_CLASSES, _MOST_COLUMNS = 10, 16
_CHUNK = 64  # pictures drawn at once


class DiffusionSampleLogger(SampleLogger):
    """Draws samples from the same noise after every validation, so that progress shows.

    Of a conditional model a row per class, of 10 classes at most, and a group of columns per weight of guidance.
    A column starts from one noise in all rows and groups: only class and weight differ. Otherwise as ``SampleLogger``.

    Args:
        num_samples: how many samples; with classes, about so many, as many of each class and weight.
        guidance: weights of the class, for a conditional model: 1 is the conditional model itself, 0 the unconditional one.
        sampler: ancestral, ddim, dpm_solver++ or heun; None: the model's own.
        steps: of the sampler; None: the model's own.
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
        seed: decides the noise.
        animation: write the animation of all steps when a fit ends.
    """

    methods = ("sample", "errors_at", "to_uint8")  # errors_at: others have a sample too, but no guidance
    techniques = "DDPM"

    def __init__(
        self,
        num_samples: int = 90,
        guidance: Sequence[float] = (1.0, 2.0, 4.0),
        sampler: Literal["ancestral", "ddim", "dpm_solver++", "heun"] | None = None,
        steps: int | None = None,
        every_n_validations: int = 1,
        seed: int = 0,
        animation: bool = True,
    ) -> None:
        super().__init__(num_samples, every_n_validations, seed, animation)
        if not guidance:
            raise UsageError(f"{type(self).__name__}.guidance is empty; give it one weight at least, such as [1.0]")
        self.guidance, self.sampler, self.steps = list(guidance), sampler, steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        guided = [weight for weight in self.guidance if weight != 1]
        if guided and pl_module.num_classes is not None and getattr(pl_module, "label_dropout", None) == 0:
            raise UsageError(
                f"{type(self).__name__}.guidance has {guided[0]}, but model.label_dropout is 0: nothing is learned without "
                "a class, from which guidance could start; set it to [1.0], or model.label_dropout to 0.1"
            )

    def draw(self, trainer: Trainer, module: LightningModule, class_names: Sequence[str]) -> Tensor:
        title = f"step {steps_taken(trainer)}"
        if module.num_classes is None:
            pictures = self._sample(trainer, module, generators(self.seed, self.num_samples))
            return picture_grid(pictures.split(near_square(self.num_samples)), title=title)
        weights = len(self.guidance)
        classes = spread(module.num_classes, min(_MOST_CLASSES, max(1, self.num_samples // weights)))
        columns = max(1, min(_MOST_COLUMNS, self.num_samples // len(classes)) // weights)
        labels, groups = torch.tensor(classes).repeat_interleave(columns), []
        for weight in self.guidance:
            noise = [one for _ in classes for one in generators(self.seed, columns)]
            groups.append(self._sample(trainer, module, noise, labels, weight))
        heads = [f"guidance {weight:g}" for weight in self.guidance]
        return picture_groups(groups, [class_names[k] for k in classes], heads, title)

    def _sample(
        self,
        trainer: Trainer,
        module: LightningModule,
        noise: Sequence[torch.Generator],
        labels: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Pictures uint8 (N, 3, H, W), one for each generator."""
        pictures = []
        with trainer.precision_plugin.forward_context():
            for some in torch.arange(len(noise)).split(_CHUNK):
                drawn = module.sample(
                    len(some),
                    labels=None if labels is None else labels[some],
                    guidance=guidance,
                    sampler=self.sampler,
                    steps=self.steps,
                    generator=[noise[index] for index in some.tolist()],
                )
                pictures.append(as_pictures(module.to_uint8(drawn)))
        return torch.cat(pictures)
