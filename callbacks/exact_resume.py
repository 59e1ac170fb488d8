"""ExactResume: a killed run continues with the very random numbers and samples it would have had."""

import random
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class ExactResume(Callback):
    """Keeps the random generators (dropout, noise) and the loader's position in every checkpoint, and restores them.

    A batch counts as seen when its step is done, so that one that failed is seen again. The generators are restored only
    with the first batch, because building the loaders draws random numbers. Lightning restores a loader's position too,
    except when a scheduler asked for the length of the fit: then it forgets to. The generators are those of the rank that
    writes the checkpoint; other ranks keep their own seeds.
    """

    def __init__(self) -> None:
        self._position: dict[str, int] | None = None
        self._restore: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        _, keys, position, has_gauss, gauss = np.random.get_state()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": (torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
            "python": random.getstate(),
            "position": self._position,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restore = state_dict

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # A checkpoint of an epoch's end was written just before Lightning counted the epoch as completed. With max_steps it
        # takes that for an epoch to go on with, finds no batch left in it and counts it twice: the next one is lost.
        loop = checkpoint["loops"]["fit_loop"]
        epochs, batches = loop["epoch_progress"]["total"], loop["epoch_loop.batch_progress"]
        if epochs["ready"] == epochs["started"] == epochs["processed"] == epochs["completed"] + 1:
            for progress in (epochs, loop["epoch_progress"]["current"]):
                progress["completed"] = progress["processed"]
            batches["current"] = dict.fromkeys(batches["current"], 0)
            batches["is_last_batch"] = False
            if trainer.max_steps != -1:  # and it counts the last step once more
                loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = trainer.train_dataloader
        if self._restore and self._restore["position"] and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(self._restore["position"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._position = {"epoch": trainer.current_epoch, "batches": batch_idx + 1}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._restore is None:
            return
        state, self._restore = self._restore, None
        if trainer.global_rank != 0:
            return
        torch.set_rng_state(state["torch"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        keys, *rest = state["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
