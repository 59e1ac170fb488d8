"""What every run has: its callbacks and loggers, where they write, when W&B stays offline and what it is told."""

import netrc
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.profilers import PassThroughProfiler

from callbacks.exact_resume import ExactResume
from callbacks.progress_bar import QuietProgressBar
from callbacks.throughput import Throughput
from darkroom.checks import listed
from darkroom.run import MetricsFile


def _logged_in() -> bool:
    """Whether W&B would find a key without asking: in the environment or the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _last_wandb_id(folder: Path) -> str | None:
    """The id of the W&B run that this folder holds, to continue it: folders are named (offline-)run-<date>-<id>."""
    found = sorted(folder.glob("wandb/*run-*-*"), key=lambda path: path.stat().st_mtime)
    return found[-1].name.rsplit("-", 1)[-1] if found else None


def loggers_in(folder: Path, trainer: Namespace) -> None:
    """Points every logger of the config whose save_dir is "." at the run's folder, and W&B offline without a login."""
    for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
        arguments = logger.get("init_args") if isinstance(logger, Namespace) else None
        if arguments is None:
            continue
        if str(arguments.get("save_dir")) == ".":
            arguments.save_dir = str(folder)
        if logger.class_path.endswith("WandbLogger"):
            arguments.id = arguments.id or arguments.version or _last_wandb_id(folder)
            arguments.name = arguments.name or "/".join(folder.parts[-2:])
            if not _logged_in():
                os.environ.setdefault("WANDB_MODE", "offline")


def finish_wandb(exit_code: int) -> None:
    """Ends the W&B run, if there is one, as finished or as failed."""
    wandb = sys.modules.get("wandb")  # not imported here, because that takes a third of a second of every command
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=exit_code)


class NoProfiler(PassThroughProfiler):
    """No profiling at less cost: Lightning enters a profiler's context around every hook of every callback, some eighty
    times a step, and that of its own pass-through profiler is a generator."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> nullcontext:
        return self._nothing


def equip(config: dict[str, Any], callbacks: list[Any], folder: Path, continued: bool) -> list[Any]:
    """Adds to a Trainer's arguments what every run has, and returns its callbacks besides those of the config."""
    if config["enable_checkpointing"] is False:
        callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    callbacks = [LearningRateMonitor(), Throughput(), ExactResume(), *callbacks]
    own_bar = any(isinstance(callback, ProgressBar) for callback in listed(config["callbacks"]))
    if config["enable_progress_bar"] is not False and not own_bar:
        callbacks.append(QuietProgressBar())
    loggers = [logger for logger in listed(config["logger"]) if not isinstance(logger, bool)]
    config["profiler"] = config["profiler"] or NoProfiler()
    config["logger"] = [MetricsFile(folder, continued), *loggers]
    config["default_root_dir"] = config["default_root_dir"] or str(folder)
    return callbacks


class ConfigSaver(SaveConfigCallback):
    """Writes the resolved config into the run's folder and to W&B, and tells W&B where the checkpoints are."""

    def __init__(self, parser: Any, config: Namespace, *args: Any, **kwargs: Any) -> None:
        config = config.clone()
        config.ckpt_path = None  # what is saved starts anew, whatever this run went on from
        super().__init__(parser, config, *args, **kwargs)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update(config, allow_val_change=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        paths = {
            callback.filename: callback.best_model_path
            for callback in trainer.checkpoint_callbacks
            if isinstance(callback, ModelCheckpoint) and callback.best_model_path
        }
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                for name, path in paths.items():
                    logger.experiment.summary[f"checkpoint/{name}"] = path
