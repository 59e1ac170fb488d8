"""TaskRecorder: base of the recorders of a task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lightning import LightningModule, Trainer
from PIL import Image
from torch import Tensor

from darkroom.callbacks.plotting.images import to_uint8_rgb
from darkroom.callbacks.results.image_keeper import Files, Group, ImageKeeper
from darkroom.callbacks.writers.prediction_files import gather_rows
from darkroom.protocols import ImageData
from darkroom.runtime.records.results import Task, image_path
from darkroom.runtime.records.tables import write_table

_SIDE = 512  # pixels of the longer side of an image
_MANY_GROUPS = {  # notes by kind of group
    "cell": "There are too many pairs of classes to keep images of each, so cells of the confusion matrix lead only to "
    "images that were kept for another reason.",
    "class": "There are too many classes to keep images of each.",
}
WORST = ("worst",)  # group of the samples with the worst main score


@dataclass(frozen=True)
class Subject:
    """Model and data of a test.

    Args:
        module: the model.
        class_names: of the data, from label 0, or from label 1 for detection.
        data: datamodule, which denormalizes images; None: images are not kept.
        worst: number of samples of group ``WORST``.
        examples: number of samples of every other group.
    """

    module: LightningModule
    class_names: Sequence[str]
    data: ImageData | None
    worst: int
    examples: int


@dataclass(frozen=True)
class Sample:
    """Identity of a test sample.

    Args:
        number: its index in the data set.
        name: its file, relative to the folder of all; empty without one.
    """

    number: int
    name: str


class TaskRecorder:
    """Base of the recorders of a task, which collect rows, tables and images from the outputs of the test step.

    The model does not run again. Subclasses define ``accepts`` and ``add``.

    Args:
        subject: model and data.

    Attributes:
        rows: cells of ``samples.csv`` by column.
        blocks: rows of each further table, float64 (n, columns); the first column is the sample.
        images: kept images.
        notes: sentences on what the results lack.
    """

    task: ClassVar[Task]
    expected: ClassVar[str]  # description of the outputs of the step
    tables: ClassVar[Mapping[str, Mapping[str, type]]] = {}  # further tables: columns with their types

    def __init__(self, subject: Subject) -> None:
        self.subject, self.class_names = subject, list(subject.class_names)
        self.rows: list[dict[str, Any]] = []
        self.blocks: dict[str, list[np.ndarray]] = {name: [] for name in self.tables}
        self.notes: list[str] = []
        limits = {"worst": subject.worst, **self.limits()} if subject.data is not None else {}
        self.images = ImageKeeper(limits)
        if subject.examples:
            self.notes += [_MANY_GROUPS[kind] for kind in _MANY_GROUPS if limits.get(kind) == 0]
        if subject.data is None:
            self.notes.append("There are no images, because the datamodule has no method denormalize.")
        self._scaled = False

    @classmethod
    def records(cls, module: LightningModule) -> bool:
        """Return True if there is something to record from a module of the task."""
        return True

    def start(self) -> None:
        """Prepare for the first batch."""

    def stop(self) -> None:
        """End the connection to the module that ``start`` made."""

    @property
    def columns(self) -> list[str]:
        """Columns of ``samples.csv`` after ``sample`` and ``name``."""
        raise NotImplementedError

    def limits(self) -> dict[str, int]:
        """Return the number of samples of the groups of each kind, besides ``WORST``."""
        return {}

    def accepts(self, outputs: Any, batch: Any) -> bool:
        """Return True if outputs of the step and batch have the form of the task."""
        raise NotImplementedError

    def add(self, samples: Sequence[Sample], outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add a batch."""
        raise NotImplementedError

    def offer(
        self,
        samples: Sequence[Sample],
        scores: Mapping[int, Mapping[Group, float]],
        images: Sequence[Any] | Tensor,
        encode: Callable[[Any], Files],
    ) -> None:
        """Offer the images of a batch to groups.

        Args:
            samples: of the batch.
            scores: in each group, by the number of the sample; samples without any are left out.
            images: one for each sample.
            encode: makes the files of one of the images.
        """
        places = {sample.number: place for place, sample in enumerate(samples)}
        self.images.offer(scores, lambda number: encode(images[places[number]]))

    def gather(self, trainer: Trainer) -> None:
        """Replace the content by that of all ranks, in the order of samples; every rank must call this."""
        self.rows = sorted(gather_rows(trainer, self.rows), key=lambda row: row["sample"])
        for name, blocks in self.blocks.items():
            blocks = [block for block in gather_rows(trainer, blocks) if len(block)]
            self.blocks[name] = sorted(blocks, key=lambda block: block[0, 0])
        self.images.gather(trainer)
        if any(gather_rows(trainer, [self._scaled])):
            self.notes.append(f"Images with a side above {_SIDE} pixels are scaled down to {_SIDE}.")

    def write(self, folder: Path) -> None:
        """Write tables and images to a folder that ``create_folder`` made."""
        write_table(folder / "samples.csv", ["sample", "name", *self.columns], self.rows)
        for name, columns in self.tables.items():
            rows = (row for block in self.blocks[name] for row in block.tolist())
            cells = (
                {column: kind(cell) for (column, kind), cell in zip(columns.items(), row, strict=True)} for row in rows
            )
            write_table(folder / f"{name}.csv", list(columns), cells)
        for sample, files in self.images.images.items():
            for kind, content in files.items():
                image_path(folder, sample, kind).write_bytes(content)

    def wandb_media(self) -> dict[str, Any]:
        """Return charts and tables for W&B by name, from the results of all ranks."""
        raise NotImplementedError

    def worst(self) -> list[tuple[dict[str, Any], Files]]:
        """Return row and files of the samples of group ``WORST``, the worst first."""
        rows = {row["sample"]: row for row in self.rows}
        return [(rows[sample], self.images.images[sample]) for sample in self.images.ranked(WORST)]

    def encode_image(self, image: Tensor) -> bytes:
        """Encode an image float (C, H, W), normalized, as PNG."""
        assert self.subject.data is not None  # without it, no group keeps a sample
        return self.encode_pixels(to_uint8_rgb(self.subject.data.denormalize(image)))

    def encode_pixels(self, image: Tensor) -> bytes:
        """Encode an image uint8 (C, H, W) of one or three channels as PNG."""
        pixels = image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
        return self._encode(pixels, Image.Resampling.LANCZOS)

    def encode_mask(self, mask: np.ndarray) -> bytes:
        """Encode class ids uint8 (H, W) as PNG."""
        return self._encode(mask, Image.Resampling.NEAREST)

    def _encode(self, pixels: np.ndarray, resampling: Image.Resampling) -> bytes:
        image, file = Image.fromarray(np.ascontiguousarray(pixels)), BytesIO()
        if max(image.size) > _SIDE:
            image.thumbnail((_SIDE, _SIDE), resampling)
            self._scaled = True
        image.save(file, "PNG", compress_level=1)  # six times as fast as the default, files a tenth larger
        return file.getvalue()


def has_tensors(outputs: Any, **dimensions: int) -> bool:
    """Return True if outputs are a dict that has a tensor of this number of dimensions for every name."""
    return isinstance(outputs, Mapping) and all(
        isinstance(value := outputs.get(name), Tensor) and value.dim() == dim for name, dim in dimensions.items()
    )
