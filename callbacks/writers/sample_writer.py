"""SampleWriter: images, a grid and a table of ``darkroom predict`` for generative models."""

import csv
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

from darkroom.callbacks.base import require_module, run_folder
from darkroom.callbacks.plotting.grids import image_grid, near_square
from darkroom.callbacks.plotting.images import save
from darkroom.callbacks.writers.prediction_files import PredictedFiles, gather_rows
from darkroom.errors import UsageError
from darkroom.protocols import ImageModel, NamedClasses, PhotoData
from darkroom.runtime.lightning_compat import datamodule_of

_COLUMNS = ("index", "seed", "label", "caption", "file")
_GRID, _TABLE, _CAPTIONS = "grid.png", "samples.csv", "captions.tsv"
_LONGEST = 60  # characters of a caption in a file name
_SUPPORTED = "AutoEncoder, VAE, ConditionalVAE, DCGAN, DDPM, TextToImage, SuperResolution, ImagenCascade"


class SampleWriter(Callback):
    """Writes samples of ``Prompts``, or outputs of images, to ``predictions/`` in the run folder.

    Each image is ``<index>.png``, with its label ``<index>_<label>.png``, with its caption ``<index>_<words>.png``, or has
    the name of its input file. ``grid.png`` shows the first of them, with inputs above outputs. ``samples.csv`` lists
    index, seed, label and caption, where there are any, and the file of each. With captions, ``captions.tsv`` lists file,
    caption and seed, so that CaptionFolder can read the folder. These files replace those of an earlier predict as soon
    as the first image is written.

    Args:
        grid: maximum number of images in ``grid.png``; 0: no grid.
    """

    def __init__(self, grid: int = 64) -> None:
        if grid < 0:
            raise UsageError(f"SampleWriter.grid must be at least 0, got {grid}")
        self.grid = grid

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require_module(pl_module, ImageModel, self, _SUPPORTED)
        self.folder = run_folder(trainer) / "predictions"

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows: list[dict[str, Any]] = []
        self._files = PredictedFiles(trainer.predict_dataloaders, reserved={Path(_GRID).stem})
        if self.folder.resolve() in {folder.resolve() for folder in self._files.folders}:
            data = datamodule_of(trainer)
            key = "data.predict" if isinstance(data, PhotoData) and data.predict is not None else "data.root"
            raise UsageError(
                f"{key} must not be {self.folder}, the folder of the predictions; copy the images elsewhere first"
            )

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if not isinstance(outputs, Tensor) or outputs.dim() != 4:
            raise UsageError(
                f"SampleWriter: the predict_step of {type(pl_module).__name__} must return images (B, C, H, W); use the "
                "callback with generative models"
            )
        model = require_module(pl_module, ImageModel, self, _SUPPORTED)
        if batch_idx == 0:
            if trainer.is_global_zero:
                self._remove_earlier()
            trainer.strategy.barrier()  # so that new images of other ranks are not removed
        for position, image in enumerate(model.to_uint8(outputs).cpu()):
            row = {
                key: _to_python(batch[key][position]) for key in ("index", "seed", "label", "caption") if key in batch
            }
            row.setdefault("index", len(self._rows) * trainer.world_size + trainer.global_rank)
            name = self._files.name(batch, position, row["index"])
            about = row["label"] if "label" in row else slug(row.get("caption", ""))
            if "path" not in batch and about != "":
                name += f"_{about}"
            save(image, self.folder / f"{name}.png")
            if "image" in batch and row["index"] < self.grid:
                row["image"] = model.to_uint8(batch["image"][position]).cpu()
            self._rows.append({**row, "file": f"{name}.png"})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._rows:
            trainer.strategy.barrier()  # the other ranks reached the barrier in their first batch; this one has none
        # Once the rows are gathered, all images are written. A sampler may give one sample to two ranks.
        unique = {row["file"]: row for row in gather_rows(trainer, self._rows)}
        rows = sorted(unique.values(), key=lambda row: row["index"])
        if not trainer.is_global_zero or not rows:
            return
        columns = [name for name in _COLUMNS if any(name in row for row in rows)]
        _write_table(self.folder / _TABLE, columns, rows)
        if "caption" in columns:
            lines = [row | {"caption": " ".join(row["caption"].split())} for row in rows]
            _write_table(self.folder / _CAPTIONS, [n for n in ("file", "caption", "seed") if n in columns], lines, "\t")
        if self.grid:
            first = [row for row in rows if row["index"] < self.grid]
            self._write_grid(first, pl_module.class_names if isinstance(pl_module, NamedClasses) else ())

    def _remove_earlier(self) -> None:
        """Remove the files that an earlier predict listed; other files in the folder may be the user's own."""
        table = self.folder / _TABLE
        if not table.is_file():
            return
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names = [Path(row.get("file") or "").name for row in rows]
        names += [_CAPTIONS] if any("caption" in row for row in rows) else []
        for name in (*filter(None, names), _GRID, _TABLE):
            (self.folder / name).unlink(missing_ok=True)

    def _write_grid(self, rows: list[dict[str, Any]], class_names: Sequence[str]) -> None:
        """Draw the written images in order, with captions below and inputs above them."""
        outputs = [torch.from_numpy(np.array(Image.open(self.folder / row["file"]).convert("RGB"))) for row in rows]
        captions = [_caption(row, class_names) for row in rows]
        inputs = [row["image"].expand(3, -1, -1) for row in rows if "image" in row]
        lines: list[list[Tensor]] = []
        below: list[list[str]] = []
        columns = near_square(len(rows) + len(inputs))
        for start in range(0, len(rows), columns):
            some = slice(start, start + columns)
            if inputs:
                lines.append(inputs[some])
                below.append([])
            lines.append([image.permute(2, 0, 1) for image in outputs[some]])
            below.append(captions[some] if inputs or any(captions) else [])
        names = ["input", "reconstruction"] * (len(lines) // 2) if inputs else ()
        smallest = max(80, min(128, 7 * max(map(len, captions)))) if any(below) else 48  # for the words
        grid = image_grid(lines, names, captions=below, smallest=smallest, lines=4)
        save(grid.raster(), self.folder / _GRID)


def slug(text: str) -> str:
    """Return the words of a text as a portable file name: a-z, 0-9 and hyphens, 60 at most."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    while len("-".join(words)) > _LONGEST and len(words) > 1:
        words.pop()
    return "-".join(words)[:_LONGEST]


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> None:
    """Write some columns of the rows, under their names."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def _caption(row: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """Return the text below an image: its caption, its class, or the name of its input file."""
    if "caption" in row:
        return row["caption"]
    if "label" in row:
        return class_names[row["label"]] if row["label"] < len(class_names) else f"class {row['label']}"
    return Path(row["file"]).stem if "image" in row else ""


def _to_python(value: Any) -> Any:
    """Convert a tensor of one number to Python's number; return anything else unchanged."""
    return value.item() if isinstance(value, Tensor) else value
