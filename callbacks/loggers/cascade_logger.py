"""CascadeLogger: samples of every stage of a cascade."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import generators, logged_step, wandb_images
from darkroom.callbacks.plotting.grids import expand_to_rgb, image_grid, tile_size
from darkroom.callbacks.plotting.images import resize
from darkroom.callbacks.prompt_figures import PromptFigures
from darkroom.protocols import AugmentedStage, CascadeModel

_CHUNK = 8  # prompts sampled at once
_SMALLEST = 224  # least width of an image in pixels, so that the settings above it fit


class CascadeLogger(PromptFigures):
    """Shows the stages of a cascade side by side, all at one size, with a row per prompt.

    The files are ``figures/<stage>_stages/<step>.png``. The head of each column gives its stage's pixels, guidance and
    augmentation. In prediction the figure shows the first predicted images, and ``prompts`` are ignored.

    Args:
        prompts: texts to sample; None: the first different captions of the validation (or test) set.
        num_prompts: number of captions of the data.
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
        seed: seed of the noise; prediction uses the seeds of the data.
    """

    needs = CascadeModel
    supported = "ImagenCascade"

    def __init__(
        self, prompts: Sequence[str] | None = None, num_prompts: int = 6, every_n_validations: int = 1, seed: int = 0
    ) -> None:
        super().__init__(prompts, num_prompts, every_n_validations, seed)
        self._predicted: list[tuple[str, int]] = []

    def log_prompts(self, trainer: Trainer, module: LightningModule, prompts: list[str], stage: str) -> None:
        """Sample all stages of the prompts and publish the figure."""
        self._log(trainer, module, prompts, generators(self.seed, len(prompts)), f"{stage}_stages")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        missing = self.num_prompts - len(self._predicted)
        if trainer.is_global_zero and missing > 0 and {"caption", "seed"} <= batch.keys():
            self._predicted += zip(batch["caption"][:missing], batch["seed"].tolist(), strict=False)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        predicted, self._predicted = self._predicted, []
        if predicted:
            noise = [torch.Generator().manual_seed(seed) for _, seed in predicted]
            self._log(trainer, pl_module, [prompt for prompt, _ in predicted], noise, "predict_stages")

    def _log(
        self,
        trainer: Trainer,
        module: LightningModule,
        prompts: list[str],
        noise: list[torch.Generator],
        what: str,
    ) -> None:
        """Sample the stages of the prompts, each with its own generator, and publish the figure."""
        model = self.require(module, CascadeModel)
        rows: list[list[Tensor]] = []
        heads: list[str] = []
        with trainer.precision_plugin.forward_context():
            for start in range(0, len(prompts), _CHUNK):
                some = slice(start, start + _CHUNK)
                sampled = model.sample(prompts[some], generator=noise[some], stages=True)
                stages = [expand_to_rgb(model.to_uint8(images)) for images in sampled]
                heads = [_describe_stage(model, index, images) for index, images in enumerate(stages)]
                rows += [list(row) for row in zip(*stages, strict=True)]
        height, width = rows[0][-1].shape[1:]
        tile = tile_size(height, width, len(heads), _SMALLEST)
        captions = [f"{prompt} ({head})" for prompt in prompts for head in heads]
        # W&B shows all images of a step at the size of the first.
        wandb = wandb_images([resize(image, tile) for row in rows for image in row], captions)
        step = logged_step(trainer)  # 0 if the stages come from checkpoints
        figure = image_grid(rows, prompts, heads, f"step {step}" if step else "", tile=tile)
        self.publish(trainer, what, figure, wandb)


def _describe_stage(model: CascadeModel, index: int, images: Tensor) -> str:
    """Return the pixels and settings of a stage: the cascade's, else its own; guidance if it is not 1."""
    stage = model.stages[index]
    guidance = stage.guidance_or_default(model.guidance[index])
    parts = [f"{images.shape[2]} x {images.shape[3]}"]
    if guidance != 1:
        parts.append(f"guidance {guidance:g}")
    if index and isinstance(stage, AugmentedStage):
        augmentation = model.augmentation[index - 1]
        parts.append(f"augmentation {stage.augmentation if augmentation is None else augmentation:g}")
    return ", ".join(parts)
