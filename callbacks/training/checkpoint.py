"""SteadyCheckpoint: Lightning's ModelCheckpoint, made for short steps and for runs that end before their time."""

import sys
import time
from functools import cached_property
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.utilities import _is_max_limit_reached
from torch.optim import Optimizer

from darkroom.errors import StorageError, TrainingError


def between_steps(trainer: Trainer) -> bool:
    """Whether a fit that is left after this batch can go on exactly: no gradients are kept for the next batch, and neither
    a validation nor the end of the epoch or of the fit is due, which Lightning would leave out."""
    loop = trainer.fit_loop.epoch_loop
    validates = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
    return not (loop._should_accumulate() or validates or trainer.is_last_batch or loop._is_training_done)


class SteadyCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that makes its key once; Lightning asks for it with every hook, a dozen times a step.

    One that monitors nothing keeps its rhythm of steps or of time with two optimizers too, waits with a checkpoint until
    the fit can go on from it exactly, and ends with that of the last step. A failure is saved only where what is in memory
    is that of a whole step, and never hides what failed.
    """

    _whole = False  # what is in memory is what a step of this fit left
    due = False  # to be written as soon as the fit can go on from here

    @cached_property
    def state_key(self) -> str:
        return super().state_key

    def save_now(self, trainer: Trainer) -> None:
        """Writes the checkpoint, on all ranks together, whatever its rhythm."""
        self.due = False
        self._last_time_checked = time.monotonic()
        if not trainer.fast_dev_run:
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._whole = False

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._whole = not trainer.fit_loop.epoch_loop._should_accumulate()
        if self.monitor is not None:
            super().on_train_batch_end(trainer, *args)
            return
        self.due = self.due or (not self._should_skip_saving_checkpoint(trainer) and self._is_time(trainer))
        if self.due and between_steps(trainer):
            self.save_now(trainer)

    def _is_time(self, trainer: Trainer) -> bool:
        if self._every_n_train_steps >= 1 and trainer.global_step % self._every_n_train_steps == 0:
            return True
        if self._train_time_interval is None:
            return False
        passed = time.monotonic() - self._last_time_checked  # since the start of the fit, or the checkpoint before
        return trainer.strategy.broadcast(passed >= self._train_time_interval.total_seconds())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        unsaved = self.monitor is None and not self._should_skip_saving_checkpoint(trainer)
        if unsaved and (self.due or _ends(trainer)):
            self.save_now(trainer)
        super().on_train_epoch_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        sound = self._whole and not trainer.validating and not isinstance(exception, TrainingError | StorageError)
        if not sound or not isinstance(exception, Exception):
            return
        try:
            super().on_exception(trainer, pl_module, exception)
        except Exception as another:
            print(f"darkroom: the failed run could not be saved ({another})", file=sys.stderr)


def _ends(trainer: Trainer) -> bool:
    """Whether the epoch that has ended was the fit's last."""
    epochs = trainer.fit_loop.epoch_progress.current.processed
    return (
        trainer.should_stop
        or _is_max_limit_reached(epochs, trainer.max_epochs)
        or _is_max_limit_reached(trainer.global_step, trainer.max_steps)
    )
