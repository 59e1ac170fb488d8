"""PromptLogger: samples of the same prompts from the same noise, by guidance weight, in every epoch."""

from collections.abc import Sequence

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import generators, logged_step, wandb_images
from darkroom.callbacks.loggers.diffusion_sample_logger import check_guidance
from darkroom.callbacks.loggers.sample_logger import publish_progress
from darkroom.callbacks.plotting.grids import expand_to_rgb, image_groups
from darkroom.callbacks.prompt_figures import PromptFigures
from darkroom.errors import UsageError
from darkroom.protocols import TextModel

_CHUNK = 64  # images sampled at once
_SMALLEST, _ANIMATION = 64, 800  # pixels of a small image, and of the animation, so that prompts are readable


class PromptLogger(PromptFigures):
    """Samples prompts from the same noise after every validation, to show progress.

    The figure has a row per prompt and a group of columns per guidance weight.

    A column starts from one noise in all rows and groups: only prompt and weight differ. torch's global random state is
    unchanged.

    A fit writes ``figures/prompts/<step>.png`` and, when it ends, ``figures/prompts/progress.gif`` of all steps in the run
    folder. ``validate`` and ``test`` write to ``figures/<stage>_prompts``. W&B gets every image, with prompt and weight as
    its caption.

    Args:
        prompts: texts to sample; None: the first different captions of the validation (or test) set.
        num_prompts: number of captions of the data.
        num_samples: number of images of each prompt and weight.
        guidance: guidance weights: 1 is the conditional model itself, 0 the unconditional one.
        steps: number of steps of the sampler; None: the model's own.
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
        seed: seed of the noise.
        animation: write the animation of all steps when a fit ends.
    """

    needs = TextModel

    def __init__(
        self,
        prompts: Sequence[str] | None = None,
        num_prompts: int = 8,
        num_samples: int = 4,
        guidance: Sequence[float] = (1.0, 2.0, 4.0),
        steps: int | None = None,
        every_n_validations: int = 1,
        seed: int = 0,
        animation: bool = True,
    ) -> None:
        super().__init__(prompts, num_prompts, every_n_validations, seed)
        self._check_at_least_1(num_samples=num_samples)
        if not guidance:
            raise UsageError("PromptLogger.guidance is empty; it must have one weight at least, such as [1.0]")
        self.num_samples, self.guidance, self.steps, self.animation = num_samples, list(guidance), steps, animation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        check_guidance(self, self.guidance, pl_module)

    def log_prompts(self, trainer: Trainer, module: LightningModule, prompts: list[str], stage: str) -> None:
        """Sample the prompts at each guidance weight and publish the figure."""
        model = self.require(module, TextModel)
        groups = [self._sample(trainer, model, prompts, weight) for weight in self.guidance]
        heads = [f"guidance {weight:g}" for weight in self.guidance]
        step = logged_step(trainer)  # 0 for a cascade, which is not trained itself
        figure = image_groups(groups, prompts, heads, f"step {step}" if step else "", _SMALLEST)
        captions = [f"{prompt} ({head})" for head in heads for prompt in prompts for _ in range(self.num_samples)]
        what = "prompts" if trainer.state.fn == "fit" else f"{stage}_prompts"
        self.publish(trainer, what, figure, wandb_images(list(torch.cat(groups)), captions))

    def _sample(self, trainer: Trainer, model: TextModel, prompts: list[str], guidance: float) -> Tensor:
        """Sample images uint8 (prompts x samples, 3, H, W), one prompt after the other."""
        captions = [prompt for prompt in prompts for _ in range(self.num_samples)]
        noise = [generator for _ in prompts for generator in generators(self.seed, self.num_samples)]
        images = []
        with trainer.precision_plugin.forward_context():
            for start in range(0, len(captions), _CHUNK):
                some = slice(start, start + _CHUNK)
                sampled = model.sample(captions[some], guidance=guidance, steps=self.steps, generator=noise[some])
                images.append(expand_to_rgb(model.to_uint8(sampled)))
        return torch.cat(images)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.animation and trainer.is_global_zero:
            publish_progress(trainer, self.folder / "figures" / "prompts", _ANIMATION)
