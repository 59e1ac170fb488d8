"""Throughput: training images per second."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from darkroom.runtime.lightning_compat import log_interval, steps_taken


class Throughput(Callback):
    """Logs ``train/images_per_second`` of all ranks since the last log.

    It reads the clock only when metrics are logged; Lightning's ThroughputMonitor synchronizes with the GPU after every
    batch. Validation, and the checkpoint after it, do not count as training time.
    """

    def __init__(self) -> None:
        self._images, self._since, self._pause = 0, 0.0, 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._images, self._since = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of a batch, and log the rate with the other metrics."""
        self._images += len(batch["image"])
        step = steps_taken(trainer) + 1
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        interval = log_interval(trainer)
        if not stepped or not interval or step % interval:
            return
        now = time.perf_counter()
        rate = self._images * trainer.world_size / (now - self._since)
        pl_module.log("train/images_per_second", rate)  # reaches the loggers together with the loss
        self._images, self._since = 0, now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._pause = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the clock."""
        self._since += time.perf_counter() - self._pause
