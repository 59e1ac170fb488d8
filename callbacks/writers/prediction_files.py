"""Predictions: checks of a step's outputs, names of the files written, and rows gathered from all ranks."""

import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.protocols import FileDataset, WrappedDataset


class PredictedFiles:
    """Files of the images of a loader, and names for the files written for each.

    Args:
        loader: loader of the prediction or of the test.
        reserved: file stems that have another use.
    """

    def __init__(self, loader: object, reserved: Collection[str] = ()) -> None:
        wrapper = loader.dataset if isinstance(loader, WrappedDataset) else None
        dataset = wrapper.dataset if isinstance(wrapper, WrappedDataset) else None
        # A video has one path for all of its frames.
        paths = [Path(path) for path in dict.fromkeys(dataset.paths)] if isinstance(dataset, FileDataset) else []
        self.folders = {path.parent for path in paths}
        self._folder = os.path.commonpath(self.folders) if paths else None
        counts = Counter(path.stem for path in paths)
        self._ambiguous = {stem for stem, count in counts.items() if count > 1} | set(reserved)

    def path(self, batch: Mapping[str, Any], index: int) -> Path | None:
        """Return the file of an image, relative to the common folder of all; None: the image has no file."""
        if "path" not in batch:
            return None
        path = Path(batch["path"][index])
        return Path(path.name) if self._folder is None else path.relative_to(self._folder)

    def name(self, batch: Mapping[str, Any], index: int, number: int) -> str:
        """Return the stem of the image's file, with folder and suffix if stems are ambiguous; else the number.

        The name of a frame of a video ends with the number of the frame.
        """
        path = self.path(batch, index)
        if path is None:
            return f"{number:06d}"
        return self._stem(path) + (f"_{int(batch['frame'][index]):06d}" if "frame" in batch else "")

    def video(self, batch: Mapping[str, Any], index: int) -> str | None:
        """Return the name of the video that an image is a frame of; None: it is not."""
        path = self.path(batch, index) if "frame" in batch else None
        return None if path is None else self._stem(path)

    def _stem(self, path: Path) -> str:
        return "_".join(path.parts).replace(".", "_") if path.stem in self._ambiguous else path.stem


def place_of_frame(batch: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return number and time, in seconds, of a frame of a video, as columns of a table; empty for other images."""
    if "frame" not in batch:
        return {}
    return {"frame": int(batch["frame"][index]), "time": round(float(batch["time"][index]), 4)}


def gather_rows(trainer: Trainer, rows: list[Any]) -> list[Any]:
    """Gather the rows of all ranks, in the order of ranks; every rank must call this."""
    if trainer.world_size == 1:
        return rows
    per_rank: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(per_rank, rows)
    return [row for rows in per_rank for row in rows]


def check_detections(outputs: Any, callback: Callback, module: LightningModule) -> list[dict[str, Tensor]]:
    """Return the outputs of a step, checked to be detections.

    Raises:
        UsageError: the outputs have another form.
    """
    expected = {"boxes", "scores", "labels"}
    if isinstance(outputs, list | tuple) and all(isinstance(x, Mapping) and expected <= x.keys() for x in outputs):
        return list(outputs)
    raise UsageError(
        f"{type(callback).__name__}: the step of {type(module).__name__} must return detections, a dict of "
        f"{', '.join(sorted(expected))} for every image, got {type(outputs).__name__}; use it with object detection"
    )
