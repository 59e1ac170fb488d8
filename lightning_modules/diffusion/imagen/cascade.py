"""ImagenCascade: trained stages, one after the other (Saharia et al. 2022, section 2.4)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.diffusion.imagen.load_stage import trained_stage
from darkroom.lightning_modules.diffusion.imagen.super_resolution import SuperResolution
from darkroom.lightning_modules.diffusion.imagen.text_conditioning import captions_of, check_captions
from darkroom.lightning_modules.diffusion.imagen.text_to_image import TextToImage, seeds_of
from darkroom.lightning_modules.diffusion.metrics.caption_scores import CaptionScores
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.random import Generators

Number = TypeVar("Number", int, float)


class ImagenCascade(Generative, Technique):
    """Imagen: a base model draws a small picture of a caption, super-resolution stages make it larger, one by one.

    It is for ``test`` and ``predict``: every stage has been trained on its own.

    Args:
        base: checkpoint of a ``TextToImage``; in Python the model itself will do.
        super_resolutions: checkpoints of ``SuperResolution``, from the smallest on; each begins where the one before ends.
        guidance: weight of the caption in each stage; None: each stage's own.
        steps: of each stage's sampler; None: each stage's own.
        augmentation: noise of the small picture in each super-resolution, in [0, 1]; None: each stage's own.
        scores: of the last stage's pictures, ``CaptionScores``.
        optim: see Technique; only its memory layout counts, since nothing trains.

    Raises:
        UsageError: a checkpoint that is not there or of another technique, stages that do not chain, settings for another
            number of stages.
    """

    trained: ClassVar[bool] = True  # needs no checkpoint of its own to draw

    def __init__(
        self,
        base: str | nn.Module,
        super_resolutions: Sequence[str | nn.Module] = (),
        guidance: list[float] | None = None,
        steps: list[int] | None = None,
        augmentation: list[float] | None = None,
        scores: CaptionScores | None = None,
        optim: Optim | None = None,
    ) -> None:
        first = trained_stage(base, TextToImage, "model.base")
        others = [
            trained_stage(stage, SuperResolution, f"model.super_resolutions[{index}]")
            for index, stage in enumerate(super_resolutions)
        ]
        _check_chain([first, *others])
        super().__init__(image_shape=[first, *others][-1].image_shape, scores=scores, optim=optim)
        self.base, self.super_resolutions = first, nn.ModuleList(others)
        self.guidance = per_stage("model.guidance", guidance, 1 + len(others))
        self.steps = per_stage("model.steps", steps, 1 + len(others))
        self.augmentation = per_stage("model.augmentation", augmentation, len(others))
        self._check_settings(self.guidance, self.steps)
        for stage, level in zip(others, self.augmentation, strict=True):
            stage.check_augmentation(0.0 if level is None else level)
        self.on_step: OnStep | None = None  # watches predict_step

    @property
    def stages(self) -> list[nn.Module]:
        """From the smallest pictures to the largest."""
        return [self.base, *self.super_resolutions]

    def networks(self) -> list[nn.Module]:
        """Those of all stages."""
        return [stage.network for stage in self.stages]

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.training_step({}, 0)
        super().setup(stage)
        for text in filter(None, (stage.text for stage in self.stages)):
            text.prepare()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        raise UsageError(
            "ImagenCascade is made of trained stages and learns nothing; fit TextToImage and SuperResolution, each on its "
            "own, then test or predict with their checkpoints"
        )

    def sample(
        self,
        captions: Sequence[str],
        *,
        guidance: float | Sequence[float] | None = None,
        steps: int | Sequence[int] | None = None,
        generator: Generators = None,
        stages: bool = False,
        callback: OnStep | None = None,
    ) -> Tensor | list[Tensor]:
        """Draws a picture for each of n captions: (n, C, H, W) in [-1, 1], on the module's device.

        Args:
            captions: what is to be drawn, 1 at least.
            guidance: weight of the caption, in every stage that can be guided, or one for each stage.
            steps: of the samplers, or one number for each stage.
            generator: if given, it alone decides the result; of several, each its own picture; None: torch's global one.
            stages: return the pictures of every stage, from the smallest on, in the place of the last one's.
            callback: is told of every step of every stage; see ``samplers.Step``.
        """
        captions, count = check_captions(captions), len(self.stages)
        if isinstance(guidance, int | float):
            guidance = [guidance if stage.unguided is None else 1.0 for stage in self.stages]
        guidance = self.guidance if guidance is None else per_stage("guidance", guidance, count)
        steps = [steps] * count if isinstance(steps, int) else steps
        steps = self.steps if steps is None else per_stage("steps", steps, count)
        self._check_settings(guidance, steps)
        drawn = []
        with self.drawing(), self.precision():  # of this Trainer: the stages have none
            for index, stage in enumerate(self.stages):
                options = {"guidance": guidance[index], "steps": steps[index], "generator": generator}
                if index:
                    options |= {"low": drawn[-1], "augmentation": self.augmentation[index - 1]}
                drawn.append(stage.sample(captions, callback=callback, **options))
        return drawn if stages else drawn[-1]

    def _check_settings(self, guidance: Sequence[float | None], steps: Sequence[int | None]) -> None:
        """Refuses what a stage cannot do."""
        for stage, weight, count in zip(self.stages, guidance, steps, strict=True):
            stage.check_guidance(stage.weight_or_own(weight))
            stage.sampling_with(steps=count).pairs(stage.schedule)

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        captions_of(batch, self)
        return {}  # what was learned is the stages' to tell; here the pictures count

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] of the batch's captions, each from its own seed."""
        if "label" in batch:
            raise UsageError("ImagenCascade draws from captions, not from labels; leave data.labels out")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds_of(batch)]
        return self.sample(captions_of(batch, self), generator=generators, callback=self.on_step)


def per_stage(key: str, values: Sequence[Number] | None, count: int) -> list[Number | None]:
    """A value for each stage; None: each stage's own.

    Raises:
        UsageError: another number of them.
    """
    if values is not None and len(values) != count:
        raise UsageError(f"{key} has {len(values)} values for {count} stages; give one for each, or none at all")
    return [None] * count if values is None else list(values)


def _check_chain(stages: Sequence[TextToImage | SuperResolution]) -> None:
    for index, (before, stage) in enumerate(pairwise(stages)):
        if before.image_shape != stage.low_shape:
            raise UsageError(
                f"the stages do not chain: model.super_resolutions[{index}] enlarges pictures of {stage.low_shape}, the "
                f"stage before it draws {before.image_shape}; give the stages from the smallest pictures to the largest, "
                "each trained on pictures that its factor makes as small as those before it"
            )
