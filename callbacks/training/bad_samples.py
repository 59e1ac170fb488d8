"""BadSampleCount: how many samples could not be read, beside the other metrics."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class BadSampleCount(Callback):
    """Logs ``<stage>/bad_samples`` at the end of every epoch of a datamodule that skips them: all of the run so far."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "train")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        found = getattr(trainer.datamodule, "bad_samples", None)
        if found is not None:
            pl_module.log(f"{stage}/bad_samples", float(found.count(stage)), rank_zero_only=True)
