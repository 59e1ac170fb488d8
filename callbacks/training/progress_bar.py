"""QuietProgressBar: Lightning's progress bar, refreshed twice a second; a line per epoch in files and pipes."""

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from darkroom.protocols import ReportsSteps, SamplerStep
from darkroom.runtime.lightning_compat import steps_taken

_LINE_INTERVAL = 300.0  # seconds between two lines within an epoch


class QuietProgressBar(TQDMProgressBar):
    """Lightning's bar, refreshed at most twice a second in training; in prediction it shows the sampler's steps.

    A refresh reads the metrics, which synchronizes with the GPU. Lightning's bars refresh after every n-th batch, whatever
    the time of a batch. If stdout is a file or a pipe, a fit prints a line at the end of every epoch, and
    every five minutes within a long one; the other commands print no progress.
    """

    _refreshed = 0.0
    _watched: ReportsSteps | None = None
    _prints_lines = False
    _epoch: int | None = None  # epoch whose line is due
    _began = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace the bars by lines if stdout is not a terminal."""
        super().setup(trainer, pl_module, stage)
        if not sys.stdout.isatty():
            self._prints_lines = self.is_enabled
            self.disable()

    def _is_due(self) -> bool:
        """Return True if the last refresh was half a second ago, and record a refresh."""
        now = time.monotonic()
        due = now - self._refreshed >= 0.5
        self._refreshed = now if due else self._refreshed
        return due

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refresh the bar if it is due, and after the last batch; without bars, print a line every five minutes."""
        if self._prints_lines:
            now = time.monotonic()
            if now - self._refreshed >= _LINE_INTERVAL and not trainer.is_last_batch:
                self._refreshed = now
                self._print_line(trainer, pl_module, f"batch {batch_idx + 1} of {self.total_train_batches}")
        elif self._is_due() or trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Print the line of the epoch before: the module logs its last metrics after the hooks of callbacks."""
        super().on_train_epoch_start(trainer, *args)
        self._end_epoch(trainer)
        self._epoch, self._began = trainer.current_epoch, time.monotonic()
        self._refreshed = self._began if self._prints_lines else self._refreshed

    def on_train_end(self, trainer: Trainer, *args: Any) -> None:
        """Print the line of the last epoch."""
        super().on_train_end(trainer, *args)
        self._end_epoch(trainer)

    def _end_epoch(self, trainer: Trainer) -> None:
        if self._prints_lines and self._epoch is not None:
            self._print_line(trainer, trainer.lightning_module, f"step {steps_taken(trainer)}")
        self._epoch = None

    def _print_line(self, trainer: Trainer, pl_module: LightningModule, place: str) -> None:
        """Print epoch, place, seconds since the start of the epoch, and the metrics of the bar."""
        last = f" (last: {trainer.max_epochs - 1})" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        metrics = self.get_metrics(trainer, pl_module).items()
        values = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in metrics]
        seconds = time.monotonic() - self._began
        print(f"epoch {self._epoch}{last}, {place}, {seconds:.1f} s: {', '.join(values)}", flush=True)

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
