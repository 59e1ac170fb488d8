"""PredictionWriter: masks, overlays and areas of ``darkroom predict`` for segmentation."""

import csv
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F

from darkroom.callbacks.base import require_data, run_folder
from darkroom.callbacks.plotting.images import overlay, save, save_mask, to_uint8_rgb
from darkroom.callbacks.writers.prediction_files import PredictedFiles, gather_rows
from darkroom.protocols import ClassData


class PredictionWriter(Callback):
    """Writes masks, overlays and a table of areas to ``predictions/`` in the run folder.

    Each image has ``masks/<name>.png``, an index mask (palette PNG) at the size of the image file;
    ``overlays/<name>.png``, the classes' colours over the network input; and a row of ``areas.csv``, the number of pixels
    of each class.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require_data(trainer, ClassData, self)
        self.folder = run_folder(trainer) / "predictions"

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows: list[dict[str, Any]] = []
        self._files = PredictedFiles(trainer.predict_dataloaders)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Tensor, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        data = require_data(trainer, ClassData, self)
        class_names = data.class_names
        background = 0 if class_names[0] == "background" else None
        images = data.denormalize(batch["image"])
        for index, (mask, image) in enumerate(zip(outputs, images, strict=True)):
            name = self._files.name(batch, index, len(self._rows) * trainer.world_size + trainer.global_rank)
            blended = overlay(to_uint8_rgb(image), mask, len(class_names), background=background)
            save(blended, self.folder / "overlays" / f"{name}.png")
            if "size" in batch:
                size = batch["size"][index].tolist()
                mask = F.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0].long()
            save_mask(mask, self.folder / "masks" / f"{name}.png", len(class_names))
            pixels = torch.bincount(mask.flatten(), minlength=len(class_names)).tolist()
            height, width = mask.shape
            areas = dict(zip(class_names, pixels, strict=True))
            self._rows.append({"name": name, "height": height, "width": width, **areas})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = gather_rows(trainer, self._rows)
        if trainer.is_global_zero and rows:
            with (self.folder / "areas.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(sorted(rows, key=lambda row: row["name"]))
