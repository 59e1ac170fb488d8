"""FigureCallback: publishes figures as PNG, PDF and SVG in the run folder, in W&B and in TensorBoard."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from typing_extensions import get_protocol_members

from darkroom.callbacks.plotting.drawing import Drawing
from darkroom.callbacks.plotting.page import page_of
from darkroom.errors import UsageError
from darkroom.protocols import ClassData, ImageData, TrainedModel
from darkroom.runtime.lightning_compat import datamodule_of, steps_taken

P = TypeVar("P")
Sample = TypeVar("Sample")
WandbImages = dict[str, list[Any]]  # arguments of ``WandbLogger.log_image``


def logged_step(trainer: Trainer) -> int:
    """Return the number of training batches that led to a step, under which Lightning logs metrics.

    ``global_step`` counts the steps of every optimizer. Outside of a fit it is the number in the loaded checkpoint.
    """
    module = trainer.lightning_module
    loaded = module.trained_steps if isinstance(module, TrainedModel) else 0
    return steps_taken(trainer) or loaded


def run_folder(trainer: Trainer) -> Path:
    """Return the folder of the run; every rank must call this, since ``log_dir`` is broadcast."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def require_data(trainer: Trainer, protocol: type[P], callback: Callback) -> P:
    """Return the datamodule, checked against the protocol that a callback needs.

    Raises:
        UsageError: the datamodule is missing, or lacks a member of the protocol.
    """
    data = datamodule_of(trainer)
    if not isinstance(data, protocol):
        needs = " and ".join(sorted(get_protocol_members(protocol)))
        raise UsageError(f"{type(callback).__name__} needs a datamodule with {needs}; use a VisionDataModule")
    return data


def require_module(module: LightningModule, protocol: type[P], callback: Callback, supported: str) -> P:
    """Return the module, checked against a protocol: methods, attributes and the arguments of methods.

    Args:
        module: module of the Trainer.
        protocol: methods and attributes that the callback uses.
        callback: callback, named in the error.
        supported: methods that the callback supports, named in the error.

    Raises:
        UsageError: the module lacks a member, or a method lacks an argument.
    """
    name, kind = type(callback).__name__, type(module).__name__
    if not isinstance(module, protocol):
        missing = [member for member in sorted(get_protocol_members(protocol)) if _lacks(module, protocol, member)]
        raise UsageError(
            f"{name} needs {', '.join(missing)} of the module, which {kind} does not have; use it with {supported}"
        )
    for member in sorted(get_protocol_members(protocol)):
        rejected = _rejected_arguments(module, protocol, member)
        if rejected:
            raise UsageError(
                f"{name} calls {member} with {', '.join(rejected)}, which {kind}.{member} does not accept; use it with "
                f"{supported}"
            )
    return module


def _lacks(module: LightningModule, protocol: type, member: str) -> bool:
    if not hasattr(module, member):
        return True
    return callable(getattr(protocol, member, None)) and not callable(getattr(module, member))


def _rejected_arguments(module: object, protocol: type, member: str) -> list[str]:
    """Return the keyword arguments of a method of the protocol that the module's method does not accept."""
    method = getattr(protocol, member, None)
    if not inspect.isfunction(method):
        return []
    accepted = inspect.signature(getattr(module, member)).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values()):
        return []
    _, *wanted = inspect.signature(method).parameters.values()  # without self
    named = [parameter.name for parameter in wanted if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY]
    return [name for name in named if name not in accepted]


def generators(seed: int, count: int) -> list[torch.Generator]:
    """Return a generator for the noise of each sample, so that samples do not depend on each other or on their number."""
    seeds = torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [torch.Generator().manual_seed(one) for one in seeds]


def wandb_images(images: Sequence[Tensor], captions: Sequence[str]) -> WandbImages:
    """Return arguments of ``WandbLogger.log_image`` for images uint8 (3, H, W) of one size, each with a caption."""
    return {"images": [image.permute(1, 2, 0).numpy() for image in images], "caption": list(captions)}


class FigureCallback(Callback):
    """Base of the callbacks that log figures when a validation or a test ends, on rank 0.

    Subclasses collect data from the batches in ``collect`` and publish figures in ``log_figures``.

    Args:
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
    """

    needs: ClassVar[type | None] = None  # protocol of the module; None: any module
    supported: ClassVar[str] = "AutoEncoder, VAE, ConditionalVAE, DCGAN, DDPM"  # methods that fulfil it

    def __init__(self, every_n_validations: int = 1) -> None:
        self._check_at_least_1(every_n_validations=every_n_validations)
        self.every_n_validations, self._validations = every_n_validations, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require_data(trainer, ImageData, self)
        if self.needs is not None:
            self.require(pl_module, self.needs)
        self.folder = run_folder(trainer)

    def require(self, module: LightningModule, protocol: type[P]) -> P:
        """Return the module, checked against a protocol; see ``require_module``."""
        return require_module(module, protocol, self, self.supported)

    def data(self, trainer: Trainer) -> ClassData:
        """Return the datamodule of a Trainer, checked."""
        return require_data(trainer, ClassData, self)

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        """Save data for a figure from a batch of a validation or a test, and from the outputs of its step."""

    def log_figures(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Publish figures at the end of a validation ("val") or a test ("test")."""
        raise NotImplementedError

    def publish(self, trainer: Trainer, what: str, figure: Drawing | Tensor, wandb: WandbImages | None = None) -> None:
        """Save a figure as ``figures/<what>/<step>.png``, ``.pdf`` and ``.svg`` and log its image; on rank 0 alone.

        Args:
            trainer: Trainer, whose loggers get the image.
            what: name of the figure and of its folder.
            figure: a plot, a page of images, or an image uint8 (3, H, W).
            wandb: arguments of ``WandbLogger.log_image`` if W&B can show more than the figure, such as overlays.
        """
        step, drawing = logged_step(trainer), page_of(figure) if isinstance(figure, Tensor) else figure
        drawing.save(self.folder / "figures" / what / f"{step:07d}")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                images = wandb or {"images": [drawing.raster().permute(1, 2, 0).numpy()]}
                logger.log_image(what, step=step, **images)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(what, drawing.raster(), step)

    def is_due(self, trainer: Trainer) -> bool:
        """Return True if this rank logs figures after the current validation or test."""
        # Outside of a fit figures are always logged; the count of a checkpoint does not matter.
        wanted = trainer.state.fn != "fit" or self._validations % self.every_n_validations == 0
        return wanted and trainer.is_global_zero and not trainer.sanity_checking

    def _check_at_least_1(self, **values: int) -> None:
        for name, value in values.items():
            if value < 1:
                raise UsageError(f"{type(self).__name__}.{name} must be at least 1, got {value}")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        if self.is_due(trainer):
            self.collect(trainer, pl_module, outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        if self.is_due(trainer):
            self.collect(trainer, pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_due(trainer):
            self.log_figures(trainer, pl_module, "val")
        self._validations += not trainer.sanity_checking

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_due(trainer):
            self.log_figures(trainer, pl_module, "test")


class FirstSamplesLogger(FigureCallback, Generic[Sample]):
    """Base of the callbacks that show the first samples of the validation (and test) set.

    These are the same in every epoch, so that epochs can be compared. The file is ``figures/<stage>_<what>/<step>.png``.

    Args:
        num_samples: number of samples.
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
    """

    what: ClassVar[str]

    def __init__(self, num_samples: int = 8, every_n_validations: int = 1) -> None:
        super().__init__(every_n_validations)
        self._check_at_least_1(num_samples=num_samples)
        self.num_samples = num_samples
        self._samples: list[Sample] = []

    def samples(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]
    ) -> list[Sample]:
        """Return the data of each sample of a batch for the figure, on the CPU.

        Args:
            trainer: Trainer of the validation or test.
            pl_module: its module.
            outputs: outputs of the step, possibly for more samples than the batch has.
            batch: the batch, or its beginning.
        """
        raise NotImplementedError

    def draw(self, trainer: Trainer, samples: list[Sample]) -> tuple[Drawing | Tensor, WandbImages | None]:
        """Return the figure of the samples and the arguments of W&B's ``log_image``, or None; see ``publish``."""
        raise NotImplementedError

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        """Save the first ``num_samples`` samples of the set."""
        missing = self.num_samples - len(self._samples)
        if missing > 0:
            some = {key: value[:missing] for key, value in batch.items()}
            self._samples += self.samples(trainer, pl_module, outputs, some)

    def log_figures(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draw the saved samples and publish the figure."""
        samples, self._samples = self._samples, []
        if samples:
            figure, wandb = self.draw(trainer, samples)
            self.publish(trainer, f"{stage}_{self.what}", figure, wandb)
