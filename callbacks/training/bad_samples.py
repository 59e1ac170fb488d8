"""BadSampleCount: number of samples that could not be read, as a metric."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from darkroom.protocols import SkipsBadSamples
from darkroom.runtime.lightning_compat import datamodule_of


class BadSampleCount(Callback):
    """Logs ``<stage>/bad_samples``, the number since the start of the run, after every epoch, if the data skip them."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the number of the training split."""
        self._log(trainer, pl_module, "train")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the number of the validation split."""
        self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the number of the test split."""
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = datamodule_of(trainer)
        if isinstance(data, SkipsBadSamples) and data.bad_samples is not None:
            pl_module.log(f"{stage}/bad_samples", float(data.bad_samples.count(stage)), rank_zero_only=True)
