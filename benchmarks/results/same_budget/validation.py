"""Time of a validation batch, and the number of batches that leaves the budget to training."""

import json
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

SHARE = 0.25  # of the budget that the batches of all validations take
FILE = "validation.json"


class TimeValidation(Callback):
    """Writes the seconds of a validation batch to ``validation.json`` in the folder of the run.

    What follows the last batch is left out: metrics over samples take the same time for any number of batches.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = self.ended = time.perf_counter()
        self.batches = 0

    def on_validation_batch_end(self, trainer: Trainer, *others: object) -> None:
        self.ended = time.perf_counter()
        self.batches += 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = (self.ended - self.started) / max(1, self.batches)
        Path(str(trainer.log_dir), FILE).write_text(json.dumps({"seconds": seconds}), encoding="utf-8")


def limit_batches(run: Path, budget: float, validations: int) -> int:
    """Return the number of batches of each validation, at least 1.

    Args:
        run: folder of a run with ``TimeValidation``.
        budget: seconds of the whole fit.
        validations: of the fit.
    """
    seconds = json.loads((run / FILE).read_text(encoding="utf-8"))["seconds"]
    return max(1, int(SHARE * budget / validations / max(seconds, 1e-6)))
