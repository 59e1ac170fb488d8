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
from darkroom.callbacks.writers.prediction_files import PredictedFiles, gather_rows, place_of_frame
from darkroom.callbacks.writers.video_files import VideoFiles
from darkroom.protocols import ClassData


class PredictionWriter(Callback):
    """Writes masks, overlays and a table of areas to ``predictions/`` in the run folder.

    Each image has ``masks/<name>.png``, an index mask (palette PNG) at the size of the image file;
    ``overlays/<name>.png``, the classes' colours over the network input; and a row of ``areas.csv``, the number of pixels
    of each class.

    A video has ``videos/<name>.mp4``, its frames with the overlay, and ``videos/<name>.csv``, a row for each frame: number
    from 0, time in seconds, height, width and the number of pixels of each class.
    """

    _videos: VideoFiles | None = None  # data that cannot be read end the command before

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        class_names = require_data(trainer, ClassData, self).class_names
        self.folder = run_folder(trainer) / "predictions"
        self._videos = VideoFiles(self.folder / "videos", ["frame", "time", "height", "width", *class_names])

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
            blended = overlay(to_uint8_rgb(image), mask, len(class_names), background=background)
            if "size" in batch:
                size = batch["size"][index].tolist()
                mask = F.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0].long()
            pixels = torch.bincount(mask.flatten(), minlength=len(class_names)).tolist()
            height, width = mask.shape
            row = {"height": height, "width": width, **dict(zip(class_names, pixels, strict=True))}
            video, place = self._files.video(batch, index), place_of_frame(batch, index)
            if video is not None:
                assert self._videos is not None, "setup comes first"
                self._videos.add(video, float(batch["rate"][index]), blended, [place | row])
                continue
            name = self._files.name(batch, index, len(self._rows) * trainer.world_size + trainer.global_rank)
            save(blended, self.folder / "overlays" / f"{name}.png")
            save_mask(mask, self.folder / "masks" / f"{name}.png", len(class_names))
            self._rows.append({"name": name, **row})

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._videos is not None:
            self._videos.close()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._videos is not None, "setup comes first"
        self._videos.close()
        rows = gather_rows(trainer, self._rows)
        if trainer.is_global_zero and rows:
            with (self.folder / "areas.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(sorted(rows, key=lambda row: row["name"]))
