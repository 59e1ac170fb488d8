"""PromptPictures: what the callbacks that draw from captions have in common."""

from collections.abc import Sequence
from typing import Any

from lightning import LightningModule, Trainer

from darkroom.callbacks.base import PeriodicPictures
from darkroom.errors import UsageError


class PromptPictures(PeriodicPictures):
    """Base of the callbacks that draw from prompts: given ones, or the first different captions of the validation (and
    test) set, which never change, so that epochs can be compared.

    Args:
        prompts: what is drawn; None: captions of the data.
        num_prompts: how many captions of the data.
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
        seed: decides the noise.
    """

    techniques = "TextToImage, ImagenCascade"

    def __init__(
        self, prompts: Sequence[str] | None = None, num_prompts: int = 8, every_n_validations: int = 1, seed: int = 0
    ) -> None:
        super().__init__(every_n_validations)
        self._at_least_1(num_prompts=num_prompts)
        if prompts is not None and not prompts:
            raise UsageError(
                f"{type(self).__name__}.prompts is empty; give one at least, or leave it out to draw captions of the data"
            )
        self.prompts, self.num_prompts, self.seed = prompts, num_prompts, seed
        self._captions: list[str] = []

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        if self.prompts is not None:
            return
        if "caption" not in batch:
            raise UsageError(
                f"{type(self).__name__} draws captions of the data, but {type(trainer.datamodule).__name__} has none; give "
                "it prompts, or data with captions (ShapesCaptions, CaptionFolder)"
            )
        self._captions = list(dict.fromkeys([*self._captions, *batch["caption"]]))[: self.num_prompts]

    def draw_all(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        captions, self._captions = self._captions, []
        prompts = captions if self.prompts is None else list(self.prompts)
        if prompts:
            self.draw_prompts(trainer, pl_module, prompts, stage)

    def draw_prompts(self, trainer: Trainer, module: LightningModule, prompts: list[str], stage: str) -> None:
        """Draws and publishes what the module makes of the prompts, when pictures are due."""
        raise NotImplementedError
