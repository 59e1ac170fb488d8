"""PictureCallback: brings a picture to everyone who looks: a PNG in the run's folder, W&B, TensorBoard."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from callbacks.drawing import save
from darkroom.errors import UsageError


def steps_taken(trainer: Trainer) -> int:
    """Training batches that led to a step; what Lightning logs metrics under (global_step counts every optimizer)."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


class PictureCallback(Callback):
    """Base of the callbacks that draw. They ask ``trainer.datamodule`` for class names and to undo its normalisation."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not hasattr(trainer.datamodule, "denormalize"):
            raise UsageError(
                f"{type(self).__name__} needs a datamodule with class_names and denormalize (VisionDataModule)"
            )
        self.folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all ranks, so it is done here

    def publish(
        self, trainer: Trainer, what: str, sheet: Tensor, wandb: dict[str, Sequence[Any]] | None = None
    ) -> None:
        """Shows a sheet (uint8 (3, H, W)) as ``pictures/<what>/<step>.png`` and in the loggers; on rank 0 alone.

        ``wandb`` holds arguments for ``WandbLogger.log_image`` where W&B can show more than a flat picture.
        """
        step = steps_taken(trainer)
        save(sheet, self.folder / "pictures" / what / f"{step:07d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(what, step=step, **(wandb or {"images": [sheet.permute(1, 2, 0).numpy()]}))
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(what, sheet, step)
