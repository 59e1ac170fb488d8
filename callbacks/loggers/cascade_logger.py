"""StagesLogger: what every stage of a cascade makes of a prompt."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import captioned, generators, steps_taken
from darkroom.callbacks.plotting.grids import as_pictures, picture_grid, tile_size
from darkroom.callbacks.plotting.images import resize
from darkroom.callbacks.prompt_figures import PromptPictures

_CHUNK = 8  # prompts drawn at once
_SMALLEST = 224  # pixels of a small picture, whose settings stand above it


class StagesLogger(PromptPictures):
    """Draws the stages of a cascade side by side, all at one size, a row per prompt, as ``pictures/<stage>_stages``.
    Each column says its stage's pixels, guidance and augmentation.

    In prediction these are the first of the very pictures that are predicted, and ``prompts`` are left alone.

    Args:
        prompts: what is drawn; None: the first different captions of the validation (or test) set.
        num_prompts: how many captions of the data.
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
        seed: decides the noise; in prediction the data's do.
    """

    methods = ("sample", "to_uint8")
    arguments = ("captions", "stages")
    techniques = "ImagenCascade"

    def __init__(
        self, prompts: Sequence[str] | None = None, num_prompts: int = 6, every_n_validations: int = 1, seed: int = 0
    ) -> None:
        super().__init__(prompts, num_prompts, every_n_validations, seed)
        self._predicted: list[tuple[str, int]] = []

    def draw_prompts(self, trainer: Trainer, module: LightningModule, prompts: list[str], stage: str) -> None:
        self._draw(trainer, module, prompts, generators(self.seed, len(prompts)), f"{stage}_stages")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        missing = self.num_prompts - len(self._predicted)
        if trainer.is_global_zero and missing > 0 and {"caption", "seed"} <= batch.keys():
            self._predicted += zip(batch["caption"][:missing], batch["seed"].tolist(), strict=False)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        predicted, self._predicted = self._predicted, []
        if predicted:
            prompts, seeds = zip(*predicted, strict=True)
            noise = [torch.Generator().manual_seed(seed) for seed in seeds]
            self._draw(trainer, pl_module, list(prompts), noise, "predict_stages")

    def _draw(
        self,
        trainer: Trainer,
        module: LightningModule,
        prompts: list[str],
        noise: list[torch.Generator],
        what: str,
    ) -> None:
        """Draws and publishes the stages of so many prompts, each by its own generator."""
        rows, heads = [], []
        with trainer.precision_plugin.forward_context():
            for start in range(0, len(prompts), _CHUNK):
                some = slice(start, start + _CHUNK)
                stages = module.sample(prompts[some], generator=noise[some], stages=True)
                stages = [as_pictures(module.to_uint8(pictures)) for pictures in stages]
                heads = [_head(module, index, pictures) for index, pictures in enumerate(stages)]
                tile = tile_size(*stages[-1].shape[2:], len(stages), _SMALLEST)
                rows += [[resize(picture, tile) for picture in row] for row in zip(*stages, strict=True)]
        captions = [f"{prompt} ({head})" for prompt in prompts for head in heads]
        wandb = captioned([picture for row in rows for picture in row], captions)
        step = steps_taken(trainer)  # none where the stages come from checkpoints
        sheet = picture_grid(rows, prompts, heads, f"step {step}" if step else "", smallest=1)
        self.publish(trainer, what, sheet, wandb)


def _head(module: LightningModule, index: int, pictures: Tensor) -> str:
    """A stage's pixels and settings: the cascade's, or else its own; guidance where it is at work."""
    stage, guidance = module.stages[index], module.guidance[index]
    guidance = stage.guidance if guidance is None else guidance
    parts = [f"{pictures.shape[2]} x {pictures.shape[3]}"]
    if guidance != 1:
        parts.append(f"guidance {guidance:g}")
    if index:
        augmentation = module.augmentation[index - 1]
        parts.append(f"augmentation {stage.augmentation if augmentation is None else augmentation:g}")
    return ", ".join(parts)
