"""QuietProgressBar: Lightning's progress bar, twice a second."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class QuietProgressBar(TQDMProgressBar):
    """Lightning's bar, drawn at most twice a second in training.

    Drawing reads the metrics, which waits for the GPU: Lightning's bars do so after every batch, or every n-th however long
    a batch takes.
    """

    _drawn = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._drawn >= 0.5 or trainer.is_last_batch:
            self._drawn = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
