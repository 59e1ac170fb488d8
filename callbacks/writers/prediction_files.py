"""Predictions: what a step has returned, how the files made of it are called, one list of them from all ranks."""

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


class PredictedFiles:
    """The files of the pictures that are predicted on, and names for what is written of each.

    Args:
        trainer: that predicts.
        reserved: names, without endings, that no picture may have.
    """

    def __init__(self, trainer: Trainer, reserved: Collection[str] = ()) -> None:
        dataset = getattr(trainer.predict_dataloaders.dataset, "dataset", None)
        paths = [Path(path) for path in getattr(dataset, "paths", ())]
        self.folders = {path.parent for path in paths}
        self._folder = os.path.commonpath(self.folders) if paths else None
        counts = Counter(path.stem for path in paths)
        self._ambiguous = {stem for stem, count in counts.items() if count > 1} | set(reserved)

    def path(self, batch: Mapping[str, Any], index: int) -> Path | None:
        """A picture's file, relative to the folder that holds all of them; None: it has none."""
        if "path" not in batch:
            return None
        path = Path(batch["path"][index])
        return Path(path.name) if self._folder is None else path.relative_to(self._folder)

    def name(self, batch: Mapping[str, Any], index: int, number: int) -> str:
        """The file's name without its ending, with folder and ending where that is taken; else the number."""
        path = self.path(batch, index)
        if path is None:
            return f"{number:06d}"
        return "_".join(path.parts).replace(".", "_") if path.stem in self._ambiguous else path.stem


def of_all_ranks(trainer: Trainer, rows: list[Any]) -> list[Any]:
    """The rows that every rank has collected, one rank's after the other's; all ranks must ask."""
    if trainer.world_size == 1:
        return rows
    per_rank: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(per_rank, rows)
    return [row for part in per_rank for row in part]


def detections(outputs: Any, callback: Callback, module: LightningModule) -> list[dict[str, Tensor]]:
    """What a step of a module has returned, if that are detections.

    Raises:
        UsageError: it is something else.
    """
    expected = {"boxes", "scores", "labels"}
    if isinstance(outputs, list | tuple) and all(isinstance(x, Mapping) and expected <= x.keys() for x in outputs):
        return list(outputs)
    raise UsageError(
        f"{type(callback).__name__} shows detections, for every image a dict of {', '.join(sorted(expected))}, but the "
        f"step of {type(module).__name__} returns {type(outputs).__name__}; it is for techniques of detection"
    )
