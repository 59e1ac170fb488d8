"""ClassificationWriter: a table of classes and probabilities of ``darkroom predict`` for image classification."""

import csv
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from darkroom.callbacks.base import require_data, run_folder
from darkroom.callbacks.writers.prediction_files import PredictedFiles, gather_rows, place_of_frame
from darkroom.errors import UsageError
from darkroom.protocols import ClassData


class ClassificationWriter(Callback):
    """Writes ``predictions/predictions.csv`` in the run folder, a row for each image, sorted by path.

    Columns: ``path``, relative to the common folder of all images, or the image's number; ``class`` and ``probability`` of
    the most probable class; then ``class_2``, ``probability_2`` and so on. Frames of videos also have ``frame``, from 0,
    and ``time`` in seconds.

    Args:
        top: number of classes of each image, the most probable first; fewer if the data have fewer.
    """

    def __init__(self, top: int = 5) -> None:
        if top < 1:
            raise UsageError(f"ClassificationWriter.top must be at least 1, got {top}")
        self.top = top

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require_data(trainer, ClassData, self)
        self.folder = run_folder(trainer) / "predictions"

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows: list[dict[str, Any]] = []
        self._files = PredictedFiles(trainer.predict_dataloaders)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        names = require_data(trainer, ClassData, self).class_names
        if not isinstance(outputs, Tensor) or outputs.shape != (len(batch["image"]), len(names)):
            raise UsageError(
                f"ClassificationWriter: predict_step of {type(pl_module).__name__} must return probabilities "
                f"({len(batch['image'])}, {len(names)}); use the callback with ImageClassifier"
            )
        best = outputs.float().topk(min(self.top, len(names)))
        for index, (values, classes) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            number = len(self._rows) * trainer.world_size + trainer.global_rank
            path = self._files.path(batch, index)
            row: dict[str, Any] = {"path": f"{number:06d}" if path is None else path.as_posix()}
            row |= place_of_frame(batch, index)
            for place, (value, label) in enumerate(zip(values, classes, strict=True), 1):
                suffix = f"_{place}" if place > 1 else ""
                row |= {f"class{suffix}": names[label], f"probability{suffix}": f"{value:.4f}"}
            self._rows.append(row)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = gather_rows(trainer, self._rows)
        if trainer.is_global_zero and rows:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
                of_video = next((row for row in rows if "frame" in row), rows[0])
                writer = csv.DictWriter(file, list(of_video))
                writer.writeheader()
                writer.writerows(sorted(rows, key=lambda row: (row["path"], row.get("frame", 0))))
