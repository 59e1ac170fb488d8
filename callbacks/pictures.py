"""PictureCallback: brings a picture to everyone who looks: a PNG in the run's folder, W&B, TensorBoard."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

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


class SampleLogger(PictureCallback):
    """Base of the callbacks that draw the first samples of the validation (and test) set, which never change, so that
    epochs can be compared. The file is ``pictures/<stage>_<what>/<step>.png``.

    Args:
        num_samples: how many samples.
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
    """

    what: ClassVar[str]

    def __init__(self, num_samples: int = 8, every_n_validations: int = 1) -> None:
        for name, value in {"num_samples": num_samples, "every_n_validations": every_n_validations}.items():
            if value < 1:
                raise UsageError(f"{type(self).__name__}.{name} is {value}; it must be at least 1")
        self.num_samples, self.every_n_validations = num_samples, every_n_validations
        self._validations = 0
        self._samples: list[Any] = []

    def state_dict(self) -> dict[str, int]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._validations = state_dict["validations"]

    def samples(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> list[Any]:
        """What is kept of each sample of a batch, or of its beginning, and what its step returned; on the CPU."""
        raise NotImplementedError

    def draw(self, trainer: Trainer, samples: list[Any]) -> tuple[Tensor, dict[str, Sequence[Any]]]:
        """The sheet of what was kept, and the arguments of W&B's ``log_image``, see ``publish``."""
        raise NotImplementedError

    def _collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        missing = self.num_samples - len(self._samples)
        # Outside of a fit every set is drawn, whatever count a checkpoint has brought along.
        wanted = trainer.state.fn != "fit" or self._validations % self.every_n_validations == 0
        if missing > 0 and wanted and trainer.is_global_zero and not trainer.sanity_checking:
            some = {key: value[:missing] for key, value in batch.items()}
            self._samples += self.samples(trainer, pl_module, outputs, some)

    def _draw(self, trainer: Trainer, stage: str) -> None:
        samples, self._samples = self._samples, []
        if samples:
            sheet, wandb = self.draw(trainer, samples)
            self.publish(trainer, f"{stage}_{self.what}", sheet, wandb)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._collect(trainer, pl_module, outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._collect(trainer, pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, "val")
        self._validations += not trainer.sanity_checking

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, "test")
