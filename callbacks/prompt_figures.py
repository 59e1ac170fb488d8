"""PromptFigures: base of the callbacks that show samples of prompts."""

from collections.abc import Sequence
from typing import Any

from lightning import LightningModule, Trainer

from darkroom.callbacks.base import FigureCallback
from darkroom.errors import UsageError
from darkroom.runtime.lightning_compat import datamodule_of


class PromptFigures(FigureCallback):
    """Base of the callbacks that show samples of prompts.

    The prompts are those given, or the first different captions of the validation (and test) set. They are the same in
    every epoch, so that epochs can be compared.

    Args:
        prompts: texts to sample; None: captions of the data.
        num_prompts: number of captions of the data.
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
        seed: seed of the noise.
    """

    supported = "TextToImage, ImagenCascade"

    def __init__(
        self, prompts: Sequence[str] | None = None, num_prompts: int = 8, every_n_validations: int = 1, seed: int = 0
    ) -> None:
        super().__init__(every_n_validations)
        self._check_at_least_1(num_prompts=num_prompts)
        if prompts is not None and not prompts:
            raise UsageError(
                f"{type(self).__name__}.prompts is empty; it must have one prompt at least, or be left out to sample "
                "captions of the data"
            )
        self.prompts, self.num_prompts, self.seed = prompts, num_prompts, seed
        self._captions: list[str] = []

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        """Save the first different captions of the set, if no prompts are given.

        Raises:
            UsageError: the data have no captions.
        """
        if self.prompts is not None:
            return
        if "caption" not in batch:
            raise UsageError(
                f"{type(self).__name__} samples captions of the data, but {type(datamodule_of(trainer)).__name__} has "
                "none; give it prompts, or data with captions (ShapesCaptions, CaptionFolder)"
            )
        self._captions = list(dict.fromkeys([*self._captions, *batch["caption"]]))[: self.num_prompts]

    def log_figures(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the figures of the prompts; see ``log_prompts``."""
        captions, self._captions = self._captions, []
        prompts = captions if self.prompts is None else list(self.prompts)
        if prompts:
            self.log_prompts(trainer, pl_module, prompts, stage)

    def log_prompts(self, trainer: Trainer, module: LightningModule, prompts: list[str], stage: str) -> None:
        """Sample the prompts and publish the figure."""
        raise NotImplementedError
