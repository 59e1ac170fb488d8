"""PromptLogger: what is drawn of the same prompts from the same noise, by weight of guidance, epoch after epoch."""

from collections.abc import Sequence

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import captioned, generators, steps_taken
from darkroom.callbacks.loggers.sample_logger import publish_progress
from darkroom.callbacks.plotting.grids import as_pictures, picture_groups
from darkroom.callbacks.prompt_figures import PromptPictures
from darkroom.errors import UsageError

_CHUNK = 64  # pictures drawn at once
_SMALLEST, _ANIMATION = 64, 800  # pixels of a small picture, and of the animation: prompts must be readable


class PromptLogger(PromptPictures):
    """Draws prompts after every validation, so that progress shows: a row per prompt, a group of columns per weight of
    guidance. A column starts from one noise in all rows and groups: only prompt and weight differ. It leaves torch's random
    numbers alone.

    A fit leaves ``pictures/prompts/<step>.png`` and, when it ends, ``pictures/prompts/progress.gif`` of all steps that the
    run's folder holds; ``validate`` and ``test`` draw into ``pictures/<stage>_prompts``. W&B gets picture by picture, with
    prompt and weight as its caption.

    Args:
        prompts: what is drawn; None: the first different captions of the validation (or test) set.
        num_prompts: how many captions of the data.
        num_samples: how many pictures of each prompt and weight.
        guidance: weights of the prompt: 1 is the conditional model itself, 0 the unconditional one.
        steps: of the sampler; None: the model's own.
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
        seed: decides the noise.
        animation: write the animation of all steps when a fit ends.
    """

    methods = ("sample", "to_uint8")
    arguments = ("captions", "guidance", "steps")

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
        self._at_least_1(num_samples=num_samples)
        if not guidance:
            raise UsageError("PromptLogger.guidance is empty; give it one weight at least, such as [1.0]")
        self.num_samples, self.guidance, self.steps, self.animation = num_samples, list(guidance), steps, animation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        guided, why_not = [weight for weight in self.guidance if weight != 1], getattr(pl_module, "unguided", None)
        if guided and why_not:
            raise UsageError(f"PromptLogger.guidance has {guided[0]}, but {why_not}; or set it to [1.0]")

    def draw_prompts(self, trainer: Trainer, module: LightningModule, prompts: list[str], stage: str) -> None:
        groups = [self._sample(trainer, module, prompts, weight) for weight in self.guidance]
        heads = [f"guidance {weight:g}" for weight in self.guidance]
        step = steps_taken(trainer)  # a cascade has none of its own
        sheet = picture_groups(groups, prompts, heads, f"step {step}" if step else "", _SMALLEST)
        captions = [f"{prompt} ({head})" for head in heads for prompt in prompts for _ in range(self.num_samples)]
        what = "prompts" if trainer.state.fn == "fit" else f"{stage}_prompts"
        self.publish(trainer, what, sheet, captioned(torch.cat(groups), captions))

    def _sample(self, trainer: Trainer, module: LightningModule, prompts: list[str], guidance: float) -> Tensor:
        """Pictures uint8 (prompts x samples, 3, H, W), one prompt after the other."""
        captions = [prompt for prompt in prompts for _ in range(self.num_samples)]
        noise = [generator for _ in prompts for generator in generators(self.seed, self.num_samples)]
        pictures = []
        with trainer.precision_plugin.forward_context():
            for start in range(0, len(captions), _CHUNK):
                some = slice(start, start + _CHUNK)
                drawn = module.sample(captions[some], guidance=guidance, steps=self.steps, generator=noise[some])
                pictures.append(as_pictures(module.to_uint8(drawn)))
        return torch.cat(pictures)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.animation and trainer.is_global_zero:
            publish_progress(trainer, self.folder / "pictures" / "prompts", _ANIMATION)
