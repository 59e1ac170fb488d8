"""ImagenCascade: trained diffusion models in sequence (Saharia et al. 2022, section 2.4)."""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.diffusion.imagen.load_stage import load_stage
from darkroom.lightning_modules.diffusion.imagen.super_resolution import SuperResolution
from darkroom.lightning_modules.diffusion.imagen.text_conditioning import captions_of, check_captions
from darkroom.lightning_modules.diffusion.imagen.text_to_image import TextToImage, seeds_of
from darkroom.lightning_modules.diffusion.metrics.caption_scores import CaptionScores
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.random import Generators
from darkroom.runtime.records.results import Task

Number = TypeVar("Number", int, float)


class ImagenCascade(Generative, Technique):
    """Imagen: a base model samples a small image of a caption, and super-resolution models enlarge it one after another.

    The cascade is for ``test`` and ``predict``; every stage is trained on its own.

    Args:
        base: checkpoint of a ``TextToImage``, or in Python the model itself.
        super_resolutions: checkpoints of ``SuperResolution``, the smallest first; the input of each has the size of the
            images before it.
        guidance: weight of the caption in each stage; None: each stage's own.
        steps: of each stage's sampler; None: each stage's own.
        augmentation: noise level of the small image in each super-resolution, in [0, 1]; None: each stage's own.
        scores: of the last stage's images, ``CaptionScores``.
        optim: see Technique; only its memory layout has an effect.

    Raises:
        UsageError: a checkpoint is missing or of another method, sizes of stages do not match, or a list has another length
            than the stages.
    """

    task: ClassVar[Task] = "captions"
    is_trained: ClassVar[bool] = True  # needs no checkpoint of its own
    base: TextToImage

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
        first = load_stage(base, TextToImage, "model.base")
        others = [
            load_stage(stage, SuperResolution, f"model.super_resolutions[{index}]")
            for index, stage in enumerate(super_resolutions)
        ]
        _check_chain(first, others)
        super().__init__(image_shape=[first, *others][-1].image_shape, scores=scores, optim=optim)
        self.base, self.super_resolutions = first, nn.ModuleList(others)
        self.guidance = per_stage("model.guidance", guidance, 1 + len(others))
        self.steps = per_stage("model.steps", steps, 1 + len(others))
        self.augmentation = per_stage("model.augmentation", augmentation, len(others))
        self._check_settings(self.guidance, self.steps)
        for stage, level in zip(others, self.augmentation, strict=True):
            stage.check_augmentation(0.0 if level is None else level)
        self.on_step: OnStep | None = None  # called by predict_step after every step of a sampler

    @property
    def stages(self) -> list[TextToImage | SuperResolution]:
        """Models of all stages, from the smallest images to the largest."""
        return [self.base, *(stage for stage in self.super_resolutions if isinstance(stage, SuperResolution))]

    def networks(self) -> list[nn.Module]:
        """Return the network of every stage."""
        return [stage.network for stage in self.stages]

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.training_step({}, 0)
        super().setup(stage)
        for each in self.stages:
            if each.text is not None:
                each.text.prepare()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        raise UsageError(
            "ImagenCascade cannot be trained; fit TextToImage and SuperResolution, each on its own, then test or predict "
            "with their checkpoints"
        )

    def sample(  # type: ignore[override]  # captions instead of a number of images
        self,
        captions: Sequence[str],
        *,
        guidance: float | Sequence[float] | None = None,
        steps: int | Sequence[int] | None = None,
        generator: Generators = None,
        stages: bool = False,
        callback: OnStep | None = None,
    ) -> Tensor | list[Tensor]:
        """Sample an image for each of n captions: (n, C, H, W) in [-1, 1] on the module's device.

        Args:
            captions: at least one.
            guidance: weight of the caption in every stage that can be guided, or one for each stage.
            steps: of the samplers, or one number for each stage.
            generator: determines the result; a list has one for each image; None: torch's global one.
            stages: return a list of the images of every stage, the smallest first, instead of the last images.
            callback: called after every step of every stage with a ``samplers.Step``.
        """
        captions, count = check_captions(captions), len(self.stages)
        if isinstance(guidance, int | float):
            guidance = [guidance if stage.unguided is None else 1.0 for stage in self.stages]
        weights = self.guidance if guidance is None else per_stage("guidance", guidance, count)
        steps = [steps] * count if isinstance(steps, int) else steps
        counts = self.steps if steps is None else per_stage("steps", steps, count)
        self._check_settings(weights, counts)
        samples: list[Tensor] = []
        with self.sampling_mode(), self.precision():  # of this Trainer: the stages have none
            for index, stage in enumerate(self.stages):
                options: dict[str, Any] = {
                    "guidance": weights[index],
                    "steps": counts[index],
                    "generator": generator,
                    "callback": callback,
                }
                if isinstance(stage, SuperResolution):
                    options |= {"low": samples[-1], "augmentation": self.augmentation[index - 1]}
                samples.append(stage.sample(captions, **options))
        return samples if stages else samples[-1]

    def _check_settings(self, guidance: Sequence[float | None], steps: Sequence[int | None]) -> None:
        """Raise a UsageError for settings that a stage does not support."""
        for index, (stage, weight, count) in enumerate(zip(self.stages, guidance, steps, strict=True)):
            stage.check_guidance(stage.guidance_or_default(weight), key=f"model.guidance[{index}]")
            stage.sampling_with(steps=count).pairs(stage.schedule, key=f"model.steps[{index}]")

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        """Return no losses: the stages log theirs in their own runs.

        Raises:
            UsageError: the batch has no captions.
        """
        captions_of(batch, self)
        return {}  # the stages log their losses in their own runs

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Sample images (B, C, H, W) in [-1, 1] of the batch's captions, each from its own seed."""
        if "label" in batch:
            raise UsageError("ImagenCascade takes captions, not labels; leave data.labels out")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds_of(batch)]
        images = self.sample(captions_of(batch, self), generator=generators, callback=self.on_step)
        assert isinstance(images, Tensor)
        return images


def per_stage(key: str, values: Sequence[Number] | None, count: int) -> list[Number | None]:
    """Return a value for each stage; None: each stage's own.

    Raises:
        UsageError: the number of values is not the number of stages.
    """
    if values is not None and len(values) != count:
        raise UsageError(
            f"{key} has {len(values)} values for {count} stages; give one for each stage, or leave {key} out"
        )
    return [None] * count if values is None else list(values)


def _check_chain(base: TextToImage, others: Sequence[SuperResolution]) -> None:
    for index, (before, stage) in enumerate(zip([base, *others], others, strict=False)):
        if before.image_shape != stage.low_shape:
            raise UsageError(
                f"model.super_resolutions[{index}] enlarges images of {stage.low_shape}, but the stage before it samples "
                f"{before.image_shape}; give the stages from the smallest images to the "
                "largest, each with model.image_shape / model.factor equal to the images before it"
            )
