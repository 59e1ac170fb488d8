"""SteadyCheckpoint: Lightning's ModelCheckpoint for short steps and for runs that end early."""

import sys
import time
from functools import cached_property
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.optim import Optimizer

from darkroom.errors import StorageError, TrainingError
from darkroom.runtime.lightning_compat import (
    CheckpointSteps,
    is_accumulating,
    is_fast_dev_run,
    is_last_epoch,
    is_last_step,
    validation_is_due,
)


def is_between_steps(trainer: Trainer) -> bool:
    """Return True if a fit that ends after the current batch can resume exactly.

    False if gradients accumulate over the next batch, or if a validation or the end of the epoch or of the fit is due,
    which Lightning would skip.
    """
    return not (is_accumulating(trainer) or validation_is_due(trainer) or is_last_step(trainer))


class SteadyCheckpoint(CheckpointSteps):
    """ModelCheckpoint that computes its key once; Lightning reads the key in every hook, a dozen times per step.

    Without a monitored metric it also keeps its interval of steps or time with two optimizers, delays a checkpoint until
    the fit can resume from it exactly, and saves the last step of a fit. After an exception it saves only if the state in
    memory is that of a completed step, and never replaces the exception.
    """

    _step_is_complete = False
    due = False  # a checkpoint is to be written once the fit can resume from here
    _warned = False

    @cached_property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint."""
        return super().state_key

    def save_now(self, trainer: Trainer) -> None:
        """Write the checkpoint at once, on all ranks together, whatever its interval."""
        self.due = False
        self.last_time = time.monotonic()
        if not is_fast_dev_run(trainer):
            self.save_unmonitored(trainer)

    def on_no_validation(self, trainer: Trainer) -> None:
        """Print once that the checkpoint of the best metric needs a validation."""
        if not self._warned:
            self._warned = True
            _report(
                f"checkpoint.monitor {self.monitor}: no validation has run yet, so there is no {self.filename}.ckpt; train "
                "for an epoch or set trainer.val_check_interval"
            )

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Record that the weights are about to change."""
        self._step_is_complete = False

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save if the interval has passed, once the fit can resume from here."""
        self._step_is_complete = not is_accumulating(trainer)
        if self.monitor is not None:
            super().on_train_batch_end(trainer, *args)
            return
        self.due = self.due or (not self.is_saved(trainer) and self._interval_has_passed(trainer))
        if self.due and is_between_steps(trainer):
            self.save_now(trainer)

    def _interval_has_passed(self, trainer: Trainer) -> bool:
        if self.every_n_steps >= 1 and trainer.global_step % self.every_n_steps == 0:
            return True
        if self.time_interval is None:
            return False
        passed = time.monotonic() - self.last_time
        return trainer.strategy.broadcast(passed >= self.time_interval.total_seconds())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save a checkpoint that was delayed, and the last step of the fit."""
        unsaved = self.monitor is None and not self.is_saved(trainer)
        if unsaved and (self.due or is_last_epoch(trainer)):
            self.save_now(trainer)
        super().on_train_epoch_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the last completed step, unless the exception means that it is damaged or cannot be written."""
        sound = (
            self._step_is_complete
            and not trainer.validating
            and not isinstance(exception, TrainingError | StorageError)
        )
        if not sound or not isinstance(exception, Exception):
            return
        try:
            super().on_exception(trainer, pl_module, exception)
        except Exception as another:
            print(f"darkroom: the failed run could not be saved ({another})", file=sys.stderr)


@rank_zero_only
def _report(message: str) -> None:
    print(f"\ndarkroom: {message}", file=sys.stderr)
