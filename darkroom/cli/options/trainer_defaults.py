"""Defaults of every run: callbacks, loggers and their folders."""

import platform
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from darkroom.callbacks.results.recorder import ResultRecorder
from darkroom.callbacks.training.bad_samples import BadSampleCount
from darkroom.callbacks.training.exact_resume import ExactResume
from darkroom.callbacks.training.graceful_stop import GracefulStop
from darkroom.callbacks.training.progress_bar import QuietProgressBar
from darkroom.callbacks.training.run_recorder import RunRecorder
from darkroom.callbacks.training.throughput import Throughput
from darkroom.cli.config_checks import as_list
from darkroom.cli.results import best_epoch
from darkroom.runtime.checkpoint_io import AtomicCheckpointIO
from darkroom.runtime.csv_logger import ResumableCSVLogger
from darkroom.runtime.wandb_logger import ResilientWandbLogger


def add_defaults(
    config: dict[str, Any], callbacks: list[Any], folder: Path, resumed: bool, records: bool = False
) -> list[Any]:
    """Add the defaults of every run to a Trainer's arguments; return its callbacks besides those of the config.

    Args:
        config: arguments of the Trainer, changed in place.
        callbacks: those of the command line's own groups.
        folder: of the run.
        resumed: True if the run is resumed.
        records: record the results of a test, unless the config has a ``ResultRecorder``.
    """
    if config["enable_checkpointing"] is False:
        callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    defaults = (LearningRateMonitor, Throughput, ExactResume, GracefulStop, BadSampleCount, RunRecorder)
    callbacks = [*(callback() for callback in defaults), *callbacks]
    given = as_list(config["callbacks"])
    if records and not any(isinstance(callback, ResultRecorder) for callback in given):
        callbacks.append(ResultRecorder())
    own_bar = any(isinstance(callback, ProgressBar) for callback in given)
    if config["enable_progress_bar"] is not False and not own_bar:
        callbacks.append(QuietProgressBar())
    loggers = [logger for logger in as_list(config["logger"]) if not isinstance(logger, bool)]
    plugins = as_list(config["plugins"])
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        config["plugins"] = [*plugins, AtomicCheckpointIO()]
    config["logger"] = [ResumableCSVLogger(folder, resumed), *loggers]
    config["default_root_dir"] = config["default_root_dir"] or str(folder)
    return callbacks


def warn_of_slow_bf16(trainer: Trainer) -> None:
    """Warn of bfloat16 on an x86 processor without AVX-512, where torch's convolutions fall to a slow path."""
    old = platform.machine().lower() in ("x86_64", "amd64") and "AVX512" not in torch.backends.cpu.get_cpu_capability()
    if old and isinstance(trainer.accelerator, CPUAccelerator) and trainer.precision in ("bf16-mixed", "bf16-true"):
        rank_zero_warn(
            f"trainer.precision is {trainer.precision}, but this processor has no bf16 instructions: a step takes up to "
            "ten times as long as in float32; leave configs/trainer/bf16.yaml out, or set --trainer.precision 32-true"
        )


class ConfigSaver(SaveConfigCallback):
    """Writes the resolved config to the run folder and to W&B, and the paths of the checkpoints to W&B."""

    def __init__(self, parser: Any, config: Namespace, *args: Any, **kwargs: Any) -> None:
        config = config.clone()
        config.ckpt_path = None  # the saved config starts from scratch, also that of a resumed run
        super().__init__(parser, config, *args, **kwargs)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the config to W&B."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, ResilientWandbLogger)]
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False)) if loggers else {}  # takes 0.1 s
        for logger in loggers:
            logger.log_hyperparams(config)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the paths of the checkpoints to W&B, and upload best.ckpt if the logger is to."""
        saved = [
            one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.best_model_path
        ]
        for logger in trainer.loggers:
            if isinstance(logger, ResilientWandbLogger):
                logger.log_summary({f"checkpoint/{callback.filename}": callback.best_model_path for callback in saved})
                for callback in saved:
                    epoch = best_epoch(callback)
                    if callback.filename == "best" and epoch is not None:
                        logger.log_checkpoint(Path(callback.best_model_path), epoch)
