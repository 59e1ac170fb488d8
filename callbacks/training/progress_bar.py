"""QuietProgressBar: Lightning's progress bar, twice a second."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class QuietProgressBar(TQDMProgressBar):
    """Lightning's bar, drawn at most twice a second in training; in prediction it counts the steps that a technique tells
    ``on_step`` of.

    Drawing reads the metrics, which waits for the GPU: Lightning's bars do so after every batch, or every n-th however long
    a batch takes.
    """

    _drawn, _watches = 0.0, False

    def _due(self) -> bool:
        """Whether the bar was last drawn half a second ago; if so, it is now."""
        now = time.monotonic()
        due = now - self._drawn >= 0.5
        self._drawn = now if due else self._drawn
        return due

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._due() or trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_predict_start(trainer, pl_module)
        self._watches = self.is_enabled and getattr(pl_module, "on_step", self) is None  # nobody else does
        if self._watches:
            pl_module.on_step = self._show_step

    def _show_step(self, step: Any) -> None:
        if self._due():
            self.predict_progress_bar.set_postfix_str(f"step {step.index + 1}/{step.count}")

    def on_predict_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.predict_progress_bar.set_postfix_str("", refresh=False)
        super().on_predict_batch_end(trainer, *args, **kwargs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_predict_end(trainer, pl_module)
        self._stop_watching(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._stop_watching(pl_module)

    def _stop_watching(self, pl_module: LightningModule) -> None:
        if self._watches:
            pl_module.on_step, self._watches = None, False
