"""Throughput: images per second of training."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from darkroom.callbacks.base import steps_taken


class Throughput(Callback):
    """Logs ``train/images_per_second``, over all ranks, since the last log.

    Lightning's ThroughputMonitor waits for the GPU after every batch; this one reads the clock only when metrics are
    logged. Validation, and the checkpoint after it, are not counted as training time.
    """

    def __init__(self) -> None:
        self._images, self._since = 0, 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._images, self._since = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch["image"])
        step = steps_taken(trainer) + 1
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if not stepped or not trainer.log_every_n_steps or step % trainer.log_every_n_steps:
            return
        now = time.perf_counter()
        rate = self._images * trainer.world_size / (now - self._since)
        pl_module.log("train/images_per_second", rate)  # joins the loss in one call of each logger
        self._images, self._since = 0, now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since += time.perf_counter() - self._pause
