"""PictureCallback: brings a picture to everyone who looks: a PNG in the run's folder, W&B, TensorBoard."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from darkroom.callbacks.plotting.images import save
from darkroom.errors import UsageError


def steps_taken(trainer: Trainer) -> int:
    """Training batches that led to a step; what Lightning logs metrics under (global_step counts every optimizer). Outside
    of a fit those of the checkpoint."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped or getattr(trainer.lightning_module, "trained_steps", 0)


def needs_methods(callback: Callback, module: LightningModule, *names: str) -> None:
    """Refuses a module without the methods of generative techniques that a callback calls.

    Raises:
        UsageError: one is missing.
    """
    missing = [name for name in names if not callable(getattr(module, name, None))]
    if missing:
        raise UsageError(
            f"{type(callback).__name__} calls {', '.join(missing)}, which {type(module).__name__} has not; it is for "
            f"generative techniques: {_techniques(callback)}"
        )


def _techniques(callback: Callback) -> str:
    """Those that a callback is for."""
    return getattr(callback, "techniques", "AutoEncoder, VAE, ConditionalVAE, DCGAN, DDPM")


def needs_arguments(callback: Callback, module: LightningModule, *names: str) -> None:
    """Refuses a module whose ``sample`` does not take what a callback draws from: captions are no number of pictures.

    Raises:
        UsageError: an argument is missing.
    """
    missing = [name for name in names if name not in inspect.signature(module.sample).parameters]
    if missing:
        raise UsageError(
            f"{type(callback).__name__} calls sample with {', '.join(missing)}, which that of {type(module).__name__} does "
            f"not take; it is for {_techniques(callback)}"
        )


def generators(seed: int, count: int) -> list[torch.Generator]:
    """One for each picture's noise, so that a picture does not depend on those drawn with it, nor on how many they are."""
    seeds = torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [torch.Generator().manual_seed(one) for one in seeds]


def captioned(pictures: Sequence[Tensor], captions: Sequence[str]) -> dict[str, list[Any]]:
    """Arguments for ``WandbLogger.log_image``: pictures uint8 (3, H, W), all of one size, each with its caption."""
    return {"images": [picture.permute(1, 2, 0).numpy() for picture in pictures], "caption": list(captions)}


class PictureCallback(Callback):
    """Base of the callbacks that draw. They ask ``trainer.datamodule`` for class names and to undo its normalisation."""

    methods: ClassVar[tuple[str, ...]] = ()  # what generative techniques have and this callback calls
    arguments: ClassVar[tuple[str, ...]] = ()  # and what it calls their sample with

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not hasattr(trainer.datamodule, "denormalize"):
            raise UsageError(
                f"{type(self).__name__} needs a datamodule with class_names and denormalize (VisionDataModule)"
            )
        needs_methods(self, pl_module, *self.methods)
        if self.arguments:
            needs_arguments(self, pl_module, *self.arguments)
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


class PeriodicPictures(PictureCallback):
    """Base of the callbacks that draw when a validation or a test ends, on rank 0.

    Args:
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
    """

    def __init__(self, every_n_validations: int = 1) -> None:
        self._at_least_1(every_n_validations=every_n_validations)
        self.every_n_validations, self._validations = every_n_validations, 0

    def state_dict(self) -> dict[str, int]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._validations = state_dict["validations"]

    def due(self, trainer: Trainer) -> bool:
        """Whether this rank draws after the present validation or test."""
        # Outside of a fit every set is drawn, whatever count a checkpoint has brought along.
        wanted = trainer.state.fn != "fit" or self._validations % self.every_n_validations == 0
        return wanted and trainer.is_global_zero and not trainer.sanity_checking

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        """Keeps what is drawn of a batch of a validation or a test, and of what its step returned."""

    def draw_all(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draws and publishes when a validation ("val") or a test ("test") has ended and pictures are due."""
        raise NotImplementedError

    def _at_least_1(self, **values: int) -> None:
        for name, value in values.items():
            if value < 1:
                raise UsageError(f"{type(self).__name__}.{name} is {value}; it must be at least 1")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        if self.due(trainer):
            self.collect(trainer, pl_module, outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        if self.due(trainer):
            self.collect(trainer, pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.due(trainer):
            self.draw_all(trainer, pl_module, "val")
        self._validations += not trainer.sanity_checking

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.due(trainer):
            self.draw_all(trainer, pl_module, "test")


class FirstSamplesLogger(PeriodicPictures):
    """Base of the callbacks that draw the first samples of the validation (and test) set, which never change, so that
    epochs can be compared. The file is ``pictures/<stage>_<what>/<step>.png``.

    Args:
        num_samples: how many samples.
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
    """

    what: ClassVar[str]

    def __init__(self, num_samples: int = 8, every_n_validations: int = 1) -> None:
        super().__init__(every_n_validations)
        self._at_least_1(num_samples=num_samples)
        self.num_samples = num_samples
        self._samples: list[Any] = []

    def samples(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> list[Any]:
        """What is kept of each sample of a batch, or of its beginning, and what its step returned; on the CPU."""
        raise NotImplementedError

    def draw(self, trainer: Trainer, samples: list[Any]) -> tuple[Tensor, dict[str, Sequence[Any]] | None]:
        """The sheet of what was kept, and the arguments of W&B's ``log_image`` or None, see ``publish``."""
        raise NotImplementedError

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        missing = self.num_samples - len(self._samples)
        if missing > 0:
            some = {key: value[:missing] for key, value in batch.items()}
            self._samples += self.samples(trainer, pl_module, outputs, some)

    def draw_all(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        samples, self._samples = self._samples, []
        if samples:
            sheet, wandb = self.draw(trainer, samples)
            self.publish(trainer, f"{stage}_{self.what}", sheet, wandb)
