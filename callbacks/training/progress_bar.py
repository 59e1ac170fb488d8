"""QuietProgressBar: Lightning's progress bar, refreshed twice a second."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from darkroom.protocols import ReportsSteps, SamplerStep


class QuietProgressBar(TQDMProgressBar):
    """Lightning's bar, refreshed at most twice a second in training; in prediction it shows the sampler's steps.

    A refresh reads the metrics, which synchronizes with the GPU. Lightning's bars refresh after every n-th batch, whatever
    the time of a batch.
    """

    _refreshed = 0.0
    _watched: ReportsSteps | None = None

    def _is_due(self) -> bool:
        """Return True if the last refresh was half a second ago, and record a refresh."""
        now = time.monotonic()
        due = now - self._refreshed >= 0.5
        self._refreshed = now if due else self._refreshed
        return due

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refresh the bar if it is due, and after the last batch."""
        if self._is_due() or trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the sampler's ``on_step``, unless it is already set."""
        super().on_predict_start(trainer, pl_module)
        if self.is_enabled and isinstance(pl_module, ReportsSteps) and pl_module.on_step is None:
            self._watched = pl_module
            self._watched.on_step = self._show_step

    def _show_step(self, step: SamplerStep) -> None:
        if self._is_due():
            self.predict_progress_bar.set_postfix_str(f"step {step.index + 1}/{step.count}")

    def on_predict_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Remove the sampler's step and advance the bar."""
        self.predict_progress_bar.set_postfix_str("", refresh=False)
        super().on_predict_batch_end(trainer, *args, **kwargs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the sampler's ``on_step``."""
        super().on_predict_end(trainer, pl_module)
        self._stop_watching()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Reset the sampler's ``on_step``."""
        super().on_exception(trainer, pl_module, exception)
        self._stop_watching()

    def _stop_watching(self) -> None:
        if self._watched is not None:
            self._watched.on_step, self._watched = None, None
