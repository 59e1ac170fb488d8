"""ExactResume: a killed run continues with the very random numbers and samples it would have had."""

import random
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import distributed

from darkroom.runtime.lightning_compat import count_steps_once


class ExactResume(Callback):
    """Keeps the random generators (dropout, noise) and the loader's position in every checkpoint, and restores them.

    A batch counts as seen when its step is done, so that one that failed is seen again. The generators are restored only
    with the first batch, because building the loaders draws random numbers. Lightning restores a loader's position too,
    except when a scheduler asked for the length of the fit: then it forgets to. Every rank has generators of its own, which
    all are in the checkpoint; with another number of ranks they begin with their seeds.

    What a step or an epoch has logged reaches the loggers after the checkpoint is written. So it is in the checkpoint too,
    with the number of rows that metrics.csv had by then: none is missing, and none there twice.
    """

    def __init__(self) -> None:
        self._position: dict[str, int] | None = None
        self._restore: dict[str, Any] | None = None
        self._logged: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            count_steps_once(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Called on all ranks together, like everything that makes a checkpoint."""
        if self._restore is not None:  # nothing has happened since
            return self._restore
        ranks: list[Any] = [_generators()]
        if distributed.is_initialized():
            ranks = [None] * distributed.get_world_size()
            distributed.all_gather_object(ranks, _generators())
        return {"ranks": ranks, "position": self._position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restore = state_dict

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        rows = [logger.rows for logger in trainer.loggers if hasattr(logger, "rows")]
        checkpoint["logged"] = {"rows": rows[0] if rows else None, "waiting": _waiting(trainer)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._logged = checkpoint.get("logged", {"rows": None, "waiting": ({}, 0)})
        loop = checkpoint["loops"]["fit_loop"]
        epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
        if epochs["total"]["processed"] != epochs["total"]["completed"] + 1:
            return
        # A checkpoint of an epoch's end was written just before Lightning counted the epoch as completed.
        if not batches["is_last_batch"]:
            # max_steps, max_time or an early stop ended it: the rest of it is still to come.
            for progress in epochs.values():
                progress["processed"] -= 1
            return
        # With max_steps Lightning takes it for an epoch to go on with, finds no batch left in it and counts it twice: the
        # next one is lost.
        for progress in epochs.values():
            progress["completed"] = progress["processed"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = trainer.train_dataloader
        if self._restore and self._restore["position"] and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(self._restore["position"])
        if self._logged:
            for logger in trainer.loggers:
                if hasattr(logger, "keep"):
                    logger.keep(self._logged["rows"])
            metrics, step = self._logged["waiting"]
            trainer._logger_connector.log_metrics(metrics, step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._position = {"epoch": trainer.current_epoch, "batches": batch_idx + 1}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._restore is None:
            return
        ranks, self._restore = self._restore.get("ranks", []), None
        if len(ranks) == trainer.world_size:
            _set_generators(ranks[trainer.global_rank])


def _waiting(trainer: Trainer) -> tuple[dict[str, float], int]:
    """What was logged and has not reached the loggers yet, with its step."""
    connector, step = trainer._logger_connector, trainer.fit_loop.epoch_loop._batches_that_stepped
    at_end_of_epoch = connector._first_loop_iter is None
    if not trainer.training or not (at_end_of_epoch or connector.should_update_logs):
        return {}, step
    logged = {name: float(value) for name, value in connector.metrics["log"].items()}
    return logged and {"epoch": float(trainer.current_epoch), **logged}, step - at_end_of_epoch


def _generators() -> dict[str, Any]:
    """The state of every random generator of this process."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": (torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def _set_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
