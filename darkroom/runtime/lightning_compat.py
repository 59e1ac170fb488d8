"""Private names of Lightning, behind functions and mixins with plain names; no other file uses them.

``PRIVATE`` lists them; tests/runtime/test_lightning_compat.py checks each against the installed version. Attributes that
Lightning sets but does not declare (``Trainer.datamodule``) are read here too, so that everything else stays typed.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from traceback import walk_tb
from typing import Any

from jsonargparse import Namespace
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _is_max_limit_reached
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.protocols import NamedClasses
from darkroom.runtime.csv_logger import ResumableCSVLogger

# Class -> its names that are used below.
PRIVATE: dict[type, tuple[str, ...]] = {
    Trainer: ("_checkpoint_connector", "_logger_connector", "_signal_connector"),
    _CheckpointConnector: ("resume_start", "resume_end", "restore"),
    _EvaluationLoop: ("_has_run",),
    _FitLoop: ("_data_fetcher",),
    _LoggerConnector: ("_first_loop_iter", "log_metrics", "metrics", "should_update_logs"),
    _SignalConnector: ("register_signal_handlers",),
    _TrainingEpochLoop: (
        "_batches_that_stepped",
        "_broadcast_sigterm_tensor",
        "_is_training_done",
        "_should_accumulate",
        "_should_check_val_fx",
        "_skip_next_val",
        "on_advance_end",
    ),
    LightningCLI: (
        "_get",
        "_instantiate_trainer",
        "_parse_ckpt_path",
        "_parser",
        "_run_subcommand",
    ),
    LightningModule: ("_trainer",),
    ModelCheckpoint: (
        "_every_n_train_steps",
        "_last_time_checked",
        "_monitor_candidates",
        "_save_none_monitor_checkpoint",
        "_save_topk_checkpoint",
        "_should_skip_saving_checkpoint",
        "_train_time_interval",
    ),
    WandbLogger: ("_checkpoint_name", "_experiment", "_log_model", "_wandb_init"),
}


# --- what a Trainer has, but does not declare -------------------------------------------------------------------------


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """Return the datamodule of a Trainer; None if it has loaders instead."""
    return trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's data connector


def trainer_of(module: LightningModule) -> Trainer | None:
    """Return the Trainer of a module; None without one."""
    return module._trainer


def class_names_of(trainer: Trainer) -> Sequence[str] | None:
    """Return the names of the datamodule's classes; None if it has none."""
    data = datamodule_of(trainer)
    return data.class_names if isinstance(data, NamedClasses) else None


def count_epochs(trainer: Trainer) -> int:
    """Return the number of epochs of the fit.

    Raises:
        UsageError: ``trainer.max_epochs`` is not set.
    """
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        raise UsageError("trainer.max_epochs must be set to the number of epochs of the fit")
    return trainer.max_epochs


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return all callbacks of a Trainer."""
    return trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's callback connector


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Return True if ``trainer.fast_dev_run`` is on, which saves no files."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by Lightning's debugging flags


def log_interval(trainer: Trainer) -> int:
    """Return ``trainer.log_every_n_steps``; 0: never."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning's logger connector


def is_started_by_this_command(trainer: Trainer) -> bool:
    """Return True if another rank of the same command started this process."""
    strategy = trainer.strategy
    environment = strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
    return trainer.local_rank > 0 and environment is not None and not environment.creates_processes_externally


def process_rank() -> int:
    """Return the rank of this process, also before a Trainer exists."""
    return rank_zero_only.rank  # type: ignore[attr-defined]  # set on the function by Lightning


# --- where a fit stands -----------------------------------------------------------------------------------------------


def steps_taken(trainer: Trainer) -> int:
    """Count the training batches that led to an optimizer step: the step under which Lightning logs metrics.

    ``global_step`` counts every optimizer instead.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def is_accumulating(trainer: Trainer) -> bool:
    """Return True if the gradients of the current batch accumulate with those of the next one."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def validation_is_due(trainer: Trainer) -> bool:
    """Return True if a validation follows the current batch."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def is_last_step(trainer: Trainer) -> bool:
    """Return True if the current batch is the last one of the epoch or of the fit."""
    return trainer.is_last_batch or trainer.fit_loop.epoch_loop._is_training_done


def is_last_epoch(trainer: Trainer) -> bool:
    """Return True if the epoch that has just ended is the last one of the fit."""
    epochs = trainer.fit_loop.epoch_progress.current
    assert isinstance(epochs, _ProcessedTracker)  # declared as its base class
    return (
        trainer.should_stop
        or (trainer.max_epochs is not None and _is_max_limit_reached(epochs.processed, trainer.max_epochs))
        or _is_max_limit_reached(trainer.global_step, trainer.max_steps)
    )


def unlogged_metrics(trainer: Trainer) -> tuple[dict[str, float], int]:
    """Return the metrics that were logged but have not reached the loggers yet, and their step."""
    connector, step = trainer._logger_connector, steps_taken(trainer)
    at_end_of_epoch = connector._first_loop_iter is None
    if not trainer.training or not (at_end_of_epoch or connector.should_update_logs):
        return {}, step
    logged = {name: float(value) for name, value in connector.metrics["log"].items()}
    return logged and {"epoch": float(trainer.current_epoch), **logged}, step - at_end_of_epoch


def log_metrics(trainer: Trainer, metrics: dict[str, float], step: int) -> None:
    """Send metrics that waited in a checkpoint to all loggers, or to metrics.csv alone if the others have them.

    They are the first row after the checkpoint. An earlier fit of this run has sent it if metrics.csv had such a row.
    """
    written = [logger for logger in trainer.loggers if isinstance(logger, ResumableCSVLogger) and logger.dropped]
    if metrics and written:
        written[0].log_metrics(metrics, step)
    else:
        trainer._logger_connector.log_metrics(metrics, step)  # type: ignore[arg-type]  # converts numbers too


# --- what a Trainer does otherwise ------------------------------------------------------------------------------------


def leave_signals(trainer: Trainer) -> None:
    """Make Lightning ignore SIGTERM and SIGUSR1; callbacks/training/graceful_stop.py handles them.

    Lightning's handlers end a fit that got SIGTERM with exit code 0, synchronize all ranks with rank 0 in every step, save
    inside the handler in the middle of a step, and react to a SIGTERM of rank 0 only. tests/faults/test_signals.py
    covers all of these.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]  # Lightning has no option for this
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]  # Lightning has no option for this


def start_together(trainer: Trainer) -> None:
    """Make all ranks load the checkpoint that rank 0 found.

    Each rank searches for it before the ranks are connected, in a folder that may appear on another machine seconds later.
    """
    connector = trainer._checkpoint_connector
    load = connector.resume_start

    def resume_start(path: str | Path | None = None, weights_only: bool | None = None) -> None:
        load(trainer.strategy.broadcast(path), weights_only=weights_only)

    connector.resume_start = resume_start  # type: ignore[method-assign, assignment]  # Lightning has no hook before loading


def count_steps_once(trainer: Trainer) -> None:
    """Prevent a fit that resumes before a due validation from counting the step before it twice.

    Lightning resumes there with an iteration without an optimizer step, but increments its counter. Every later row would
    be logged one step too high.
    """
    loop = trainer.fit_loop.epoch_loop
    end_of_iteration = loop.on_advance_end

    def on_advance_end(data_fetcher: Any) -> None:
        if loop._skip_next_val:
            loop._skip_next_val = False
        else:
            end_of_iteration(data_fetcher)

    loop.on_advance_end = on_advance_end  # type: ignore[method-assign]  # Lightning has no hook around an iteration


def checkpoint_being_restored(error: BaseException) -> str | None:
    """Return the path of the checkpoint that Lightning was restoring when it failed; None for any other failure."""
    for frame, _ in walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_filename.endswith("checkpoint_connector.py") and code.co_name.startswith(("resume_", "restore")):
            return str(frame.f_locals["self"].trainer.ckpt_path)
    return None


# --- classes to derive from -------------------------------------------------------------------------------------------


def hyperparameters_are_given() -> bool:
    """Return True if the command line builds the current module and has recorded its arguments with their class paths."""
    return bool(_given_hyperparameters.get())


class CheckpointSteps(ModelCheckpoint):
    """ModelCheckpoint with public names for its private state."""

    _last_time_checked: float | None

    @property
    def every_n_steps(self) -> int:
        """Number of optimizer steps between two checkpoints; 0: not by steps."""
        return self._every_n_train_steps

    @property
    def time_interval(self) -> timedelta | None:
        """Time between two checkpoints."""
        return self._train_time_interval

    @property
    def last_time(self) -> float:
        """Monotonic time of the last checkpoint, or of the start of the fit."""
        return self._last_time_checked or 0.0

    @last_time.setter
    def last_time(self, value: float) -> None:
        self._last_time_checked = value

    def is_saved(self, trainer: Trainer) -> bool:
        """Return True if the current step is already saved, or outside of a fit."""
        return self._should_skip_saving_checkpoint(trainer)

    def save_unmonitored(self, trainer: Trainer) -> None:
        """Write the checkpoint, whatever its metric."""
        self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_no_validation(self, trainer: Trainer) -> None:
        """Handle a checkpoint that is due before any validation could log the metric that it monitors."""

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        missing = self.monitor is not None and self.monitor not in monitor_candidates
        if missing and self.save_top_k != 0 and not trainer.fit_loop.epoch_loop.val_loop._has_run:
            self.on_no_validation(trainer)  # instead of a warning with a hint about `log`
        else:
            super()._save_topk_checkpoint(trainer, monitor_candidates)


class RestartableWandbLogger(WandbLogger):
    """WandbLogger whose W&B run can be replaced by another one, with public names for its private state."""

    @property
    def uploads_checkpoints(self) -> bool:
        """True if ``log_model`` is set."""
        return bool(self._log_model)

    @property
    def artifact_name(self) -> str | None:
        """``checkpoint_name``: name of the artifact with checkpoints; None: the default."""
        return self._checkpoint_name

    @property
    def current_run(self) -> Any:
        """W&B run, if it has begun."""
        return self._experiment

    @property
    def init_arguments(self) -> dict[str, Any]:
        """Arguments of the next ``wandb.init``, to be changed in place."""
        return self._wandb_init

    def forget_run(self) -> None:
        """Reset the logger, so that the next access begins another W&B run."""
        self._experiment = None


class SteppedCLI(LightningCLI):
    """LightningCLI that builds its objects one after the other, and never overrides the config by a checkpoint."""

    def _parse_ckpt_path(self) -> None:
        """Do nothing: unlike in Lightning, hyper-parameters of a checkpoint never override config and command line."""

    def build_datamodule(self, data: Namespace) -> LightningDataModule:
        """Build the datamodule of the current command from its section of the config."""
        return self._parser(self.subcommand).instantiate_classes(Namespace(data=data)).data

    def build_model(self, config: Namespace) -> None:
        """Build everything but the Trainer from a config, and set ``config_init`` and ``model``."""
        self.config_init = self.parser.instantiate_classes(config)
        self.model = self._get(self.config_init, "model")

    def build_model_and_trainer(self, config: Namespace) -> None:
        """Build everything else from a config, and set ``config_init``, ``model`` and ``trainer``."""
        self.build_model(config)
        self.trainer = self.instantiate_trainer()

    def dump_config(self) -> str:
        """Return the config of the command as it is written to ``config.yaml``."""
        return self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False)

    def run_command(self, command: str) -> None:
        """Run the command; subclasses replace it."""
        super()._run_subcommand(command)

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_command(subcommand)

    def make_trainer(self, arguments: dict[str, Any], callbacks: Sequence[Callback]) -> Trainer:
        """Build the Trainer; subclasses change arguments and callbacks here."""
        return super()._instantiate_trainer(arguments, list(callbacks))

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        return self.make_trainer(config, callbacks)
