"""SampleWriter: what ``darkroom predict`` leaves behind for generative techniques: pictures, a grid, a table."""

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

from darkroom.callbacks.base import needs_methods
from darkroom.callbacks.plotting.grids import near_square, picture_grid
from darkroom.callbacks.plotting.images import save
from darkroom.callbacks.writers.prediction_files import PredictedFiles, of_all_ranks
from darkroom.errors import UsageError

_COLUMNS = ("index", "seed", "label", "caption", "file")
_GRID, _TABLE, _CAPTIONS = "grid.png", "samples.csv", "captions.tsv"
_LONGEST = 60  # characters of a caption in the name of a file


class SampleWriter(Callback):
    """Writes what a technique draws from ``Prompts``, or makes of images, in ``predictions/`` of the run's folder.

    ``<index>.png`` for each picture, with its label ``<index>_<label>.png``, with its caption ``<index>_<words>.png``, or
    under the name of the image's file; ``grid.png`` with the first of them, images over what was made of them; and
    ``samples.csv``: index, seed, label and caption, as far as there are any, and file of each. With captions also
    ``captions.tsv``, by which CaptionFolder takes the folder for data: file, caption and seed. These take the place of what
    an earlier predict has left, as soon as there is a first picture.

    Args:
        grid: at most so many pictures in ``grid.png``; 0: no grid.
    """

    techniques = "AutoEncoder, VAE, ConditionalVAE, DCGAN, DDPM, TextToImage, SuperResolution, ImagenCascade"

    def __init__(self, grid: int = 64) -> None:
        if grid < 0:
            raise UsageError(f"SampleWriter.grid is {grid}; it must be at least 0")
        self.grid = grid

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        needs_methods(self, pl_module, "to_uint8")
        self.folder = Path(trainer.log_dir or trainer.default_root_dir) / "predictions"  # asks all ranks

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows: list[dict[str, Any]] = []
        self._files = PredictedFiles(trainer, reserved={Path(_GRID).stem})
        if self.folder.resolve() in {folder.resolve() for folder in self._files.folders}:
            key = "data.root" if getattr(trainer.datamodule, "predict_dir", None) is None else "data.predict_dir"
            raise UsageError(
                f"{key} is the folder that predictions are written to ({self.folder}); copy them elsewhere first"
            )

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if not isinstance(outputs, Tensor) or outputs.dim() != 4:
            raise UsageError(
                f"SampleWriter writes pictures (B, C, H, W), but the predict_step of {type(pl_module).__name__} returns "
                "something else; it is for generative techniques"
            )
        if batch_idx == 0:
            if trainer.is_global_zero:
                self._remove_earlier()
            trainer.strategy.barrier()  # nobody's new picture is taken for an old one
        for position, picture in enumerate(pl_module.to_uint8(outputs).cpu()):
            row = {key: _plain(batch[key][position]) for key in ("index", "seed", "label", "caption") if key in batch}
            row.setdefault("index", len(self._rows) * trainer.world_size + trainer.global_rank)
            name = self._files.name(batch, position, row["index"])
            about = row["label"] if "label" in row else slug(row.get("caption", ""))
            if "path" not in batch and about != "":
                name += f"_{about}"
            save(picture, self.folder / f"{name}.png")
            if "image" in batch and row["index"] < self.grid:
                row["image"] = pl_module.to_uint8(batch["image"][position]).cpu()
            self._rows.append({**row, "file": f"{name}.png"})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._rows:
            trainer.strategy.barrier()  # this rank has had no batch, but at the first one the others have waited for all
        # All ranks have written their pictures when their rows are here. A sampler may give one picture to two ranks.
        unique = {row["file"]: row for row in of_all_ranks(trainer, self._rows)}
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
            self._write_grid(first, getattr(pl_module, "class_names", ()))

    def _remove_earlier(self) -> None:
        """Removes what an earlier predict has listed, and nothing else: pictures of one's own may lie beside."""
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
        """The pictures as they lie in their files, in order, over their captions and under the images they are made of."""
        pictures = [torch.from_numpy(np.array(Image.open(self.folder / row["file"]).convert("RGB"))) for row in rows]
        captions = [_caption(row, class_names) for row in rows]
        images = [row["image"].expand(3, -1, -1) for row in rows if "image" in row]
        lines, below, columns = [], [], near_square(len(rows) + len(images))
        for start in range(0, len(rows), columns):
            some = slice(start, start + columns)
            if images:
                lines.append(images[some])
                below.append(())
            lines.append([picture.permute(2, 0, 1) for picture in pictures[some]])
            below.append(captions[some] if images or any(captions) else ())
        names = ["input", "reconstruction"] * (len(lines) // 2) if images else ()
        smallest = max(80, min(128, 7 * max(map(len, captions)))) if any(below) else 48  # room for words
        save(picture_grid(lines, names, captions=below, smallest=smallest, lines=4), self.folder / _GRID)


def slug(text: str) -> str:
    """Words of a text as a part of a file's name that every file system takes: a-z, 0-9 and hyphens, 60 at most."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    while len("-".join(words)) > _LONGEST and len(words) > 1:
        words.pop()
    return "-".join(words)[:_LONGEST]


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> None:
    """Writes some columns of the rows, under their names."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def _caption(row: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """What stands below a picture: its caption, its class, or the file of the image that it was made of."""
    if "caption" in row:
        return row["caption"]
    if "label" in row:
        return class_names[row["label"]] if row["label"] < len(class_names) else f"class {row['label']}"
    return Path(row["file"]).stem if "image" in row else ""


def _plain(value: Any) -> Any:
    """A number of a batch as Python's own, anything else as it is."""
    return value.item() if isinstance(value, Tensor) else value
