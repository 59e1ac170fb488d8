"""PredictionWriter: what ``darkroom predict`` leaves behind for segmentation: masks, overlays, areas."""

import csv
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from darkroom.callbacks.base import PictureCallback
from darkroom.callbacks.plotting.images import overlay, save, save_mask, to_picture
from darkroom.callbacks.writers.prediction_files import PredictedFiles, of_all_ranks


class PredictionWriter(PictureCallback):
    """Writes masks, overlays and a table of areas in ``predictions/`` of the run's folder.

    For each picture ``masks/<name>.png``, an index mask (palette PNG) at the size of the picture's file;
    ``overlays/<name>.png``, the classes' colours over the picture as the network saw it; and a row of ``areas.csv``: pixels
    of each class.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows: list[dict[str, Any]] = []
        self._files = PredictedFiles(trainer)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Tensor, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        class_names, folder = trainer.datamodule.class_names, self.folder / "predictions"
        background = 0 if class_names[0] == "background" else None
        images = trainer.datamodule.denormalize(batch["image"])
        for index, (mask, image) in enumerate(zip(outputs, images, strict=True)):
            name = self._files.name(batch, index, len(self._rows) * trainer.world_size + trainer.global_rank)
            drawn = overlay(to_picture(image), mask, len(class_names), background=background)
            save(drawn, folder / "overlays" / f"{name}.png")
            if "size" in batch:
                size = batch["size"][index].tolist()
                mask = F.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0].long()
            save_mask(mask, folder / "masks" / f"{name}.png", len(class_names))
            pixels = torch.bincount(mask.flatten(), minlength=len(class_names)).tolist()
            height, width = mask.shape
            areas = dict(zip(class_names, pixels, strict=True))
            self._rows.append({"name": name, "height": height, "width": width, **areas})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = of_all_ranks(trainer, self._rows)
        if trainer.is_global_zero and rows:
            with (self.folder / "predictions" / "areas.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(sorted(rows, key=lambda row: row["name"]))
