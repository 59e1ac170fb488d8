"""ExactResume: a killed run resumes with the same random numbers and samples."""

import random
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import distributed

from darkroom.protocols import PositionedLoader
from darkroom.runtime.csv_logger import ResumableCSVLogger
from darkroom.runtime.lightning_compat import count_steps_once, log_metrics, unlogged_metrics


class ExactResume(Callback):
    """Saves the random generators (dropout, noise) and the position of the loader in every checkpoint, and restores them.

    A batch counts as used once its step is done, so a batch whose step failed is used again. The position counts samples:
    with another batch size or number of ranks, the rest of an epoch still uses each of its samples once. The generators are
    restored with the first batch, because building the loaders consumes random numbers. Lightning also restores the
    position of a loader, except if a scheduler read the length of the fit. Every rank has its own generators, and the
    checkpoint has all of them; with another number of ranks they start from their seeds.

    The metrics of a step or an epoch reach the loggers after the checkpoint is written. The checkpoint therefore has them
    too, with the number of rows of metrics.csv at that time. So rows are neither lost nor written twice.
    """

    def __init__(self) -> None:
        self._position: dict[str, Any] | None = None
        self._restore: dict[str, Any] | None = None
        self._logged: tuple[Any, dict[str, Any], int] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Correct Lightning's step counter in a fit."""
        if stage == "fit":
            count_steps_once(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Collect the generators of all ranks; all ranks call this together."""
        if self._restore is not None:  # no batch has run since the state was loaded
            return self._restore
        ranks: list[Any] = [_generators()]
        if distributed.is_initialized():
            ranks = [None] * distributed.get_world_size()
            distributed.all_gather_object(ranks, _generators())
        return {"ranks": ranks, "position": self._position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store the saved state until the first batch."""
        self._restore = state_dict

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the metrics that have not reached the loggers, and the number of rows of metrics.csv."""
        rows = [logger.rows for logger in trainer.loggers if isinstance(logger, ResumableCSVLogger)]
        checkpoint["logged"] = {"rows": rows[0] if rows else None, "waiting": unlogged_metrics(trainer)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read these metrics, and correct Lightning's counters in a checkpoint from the end of an epoch."""
        logged = checkpoint.get("logged", {"rows": None, "waiting": ({}, 0)})
        metrics, step = logged["waiting"]  # taken apart now, so that a changed file fails while it is restored
        self._logged = (logged["rows"], metrics, step)
        loop = checkpoint["loops"]["fit_loop"]
        epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
        if epochs["total"]["processed"] != epochs["total"]["completed"] + 1:
            return
        # A checkpoint at the end of an epoch is written before Lightning counts the epoch as completed.
        if not batches["is_last_batch"]:
            # max_steps, max_time or early stopping ended the epoch; its other batches are still due.
            for progress in epochs.values():
                progress["processed"] -= 1
            return
        # With max_steps Lightning would resume within this epoch without a batch left and count it twice, so the next
        # epoch would be lost.
        for progress in epochs.values():
            progress["completed"] = progress["processed"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the loader's position and the logged metrics."""
        loader = trainer.train_dataloader
        if self._restore and self._restore["position"] and isinstance(loader, PositionedLoader):
            _resume_at(trainer, loader, self._restore["position"])
        self._restore_metrics(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics of a fit that was killed between its last checkpoint and their row, and has no step left."""
        if self._logged is None:
            return
        written = [logger.count_rows() for logger in trainer.loggers if isinstance(logger, ResumableCSVLogger)]
        if written == [self._logged[0]]:  # later rows, such as those of a test, stay
            self._restore_metrics(trainer)

    def _restore_metrics(self, trainer: Trainer) -> None:
        if self._logged is None:
            return
        (rows, metrics, step), self._logged = self._logged, None
        for logger in trainer.loggers:
            if isinstance(logger, ResumableCSVLogger):
                logger.truncate(rows)
        log_metrics(trainer, metrics, step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the position of the loader after a completed step."""
        if isinstance(trainer.train_dataloader, PositionedLoader):
            self._position = trainer.train_dataloader.position_after(batch_idx + 1)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Restore the random generators before the first batch."""
        if self._restore is None:
            return
        ranks, self._restore = self._restore.get("ranks", []), None
        if len(ranks) == trainer.world_size:
            _set_generators(ranks[trainer.global_rank])


def _resume_at(trainer: Trainer, loader: PositionedLoader, position: dict[str, Any]) -> None:
    """Restore a loader's position, and count the batches before it in Lightning's progress by their size of today."""
    loader.load_state_dict(position)
    if position["epoch"] == trainer.current_epoch and "samples" in position:
        counted = trainer.fit_loop.epoch_loop.batch_progress.current
        shift = loader.batches_before(position["samples"]) - position["batches"]
        for name in ("ready", "started", "processed", "completed"):
            setattr(counted, name, getattr(counted, name) + shift)


def _generators() -> dict[str, Any]:
    """Return the state of every random generator of this process."""
    state = np.random.get_state()
    assert isinstance(state, tuple)  # the default form
    _, keys, position, has_gauss, gauss = state
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
