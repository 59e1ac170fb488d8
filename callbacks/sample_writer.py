"""SampleWriter: what ``darkroom predict`` leaves behind for generative techniques: pictures, a grid, a table."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

from callbacks.drawing import save
from callbacks.drawing_grids import near_square, picture_grid
from callbacks.pictures import needs_methods
from callbacks.predictions import PredictedFiles, of_all_ranks
from darkroom.errors import UsageError

_COLUMNS = ("index", "seed", "label", "caption", "file")


class SampleWriter(Callback):
    """Writes, in ``predictions/`` of the run's folder, what a technique draws from ``Prompts`` or makes of images:

    ``<index>.png`` for each picture, with its label ``<index>_<label>.png``, or under the name of the image's file;
    ``grid.png`` with the first of them; and ``samples.csv``: index, seed, label and caption, as far as there are any, and
    file of each.

    Args:
        grid: at most so many pictures in ``grid.png``; 0: no grid.
    """

    def __init__(self, grid: int = 64) -> None:
        if grid < 0:
            raise UsageError(f"SampleWriter.grid is {grid}; it must be at least 0")
        self.grid = grid

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        needs_methods(self, pl_module, "to_uint8")
        self.folder = Path(trainer.log_dir or trainer.default_root_dir) / "predictions"  # asks all ranks

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows: list[dict[str, Any]] = []
        self._files = PredictedFiles(trainer)
        if trainer.is_global_zero:  # what an earlier predict has left
            for path in self.folder.glob("*.png"):
                path.unlink()
        trainer.strategy.barrier()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if not isinstance(outputs, Tensor) or outputs.dim() != 4:
            raise UsageError(
                f"SampleWriter writes pictures (B, C, H, W), but the predict_step of {type(pl_module).__name__} returns "
                "something else; it is for generative techniques"
            )
        for position, picture in enumerate(pl_module.to_uint8(outputs).cpu()):
            row = {key: _plain(batch[key][position]) for key in ("index", "seed", "label", "caption") if key in batch}
            row.setdefault("index", len(self._rows) * trainer.world_size + trainer.global_rank)
            name = self._files.name(batch, position, row["index"])
            if "path" not in batch and "label" in row:
                name += f"_{row['label']}"
            save(picture, self.folder / f"{name}.png")
            self._rows.append({**row, "file": f"{name}.png"})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # All ranks have written their pictures when their rows are here. A sampler may give one picture to two ranks.
        unique = {row["file"]: row for row in of_all_ranks(trainer, self._rows)}
        rows = sorted(unique.values(), key=lambda row: row["index"])
        if not trainer.is_global_zero or not rows:
            return
        with (self.folder / "samples.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [name for name in _COLUMNS if any(name in row for row in rows)])
            writer.writeheader()
            writer.writerows(rows)
        if self.grid:
            self._write_grid(rows[: self.grid])

    def _write_grid(self, rows: list[dict[str, Any]]) -> None:
        """The pictures as they lie in their files, in order."""
        arrays = [np.array(Image.open(self.folder / row["file"]).convert("RGB")) for row in rows]
        pictures = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
        columns = near_square(len(pictures))
        save(picture_grid([pictures[i : i + columns] for i in range(0, len(rows), columns)]), self.folder / "grid.png")


def _plain(value: Any) -> Any:
    """A number of a batch as Python's own, anything else as it is."""
    return value.item() if isinstance(value, Tensor) else value
