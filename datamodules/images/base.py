"""LabelledImages: base of the data sets of images with one class each, for classifiers and generative models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from darkroom.datamodules.base import Statistics, VisionDataModule
from darkroom.datamodules.datasets import permute
from darkroom.datamodules.io.read_images import ImageReader, centre_square, to_tensor
from darkroom.datamodules.prediction.photos import Photos, SquarePhotos
from darkroom.errors import UsageError
from darkroom.protocols import SizedDataset


class ArrayImages(Dataset[dict[str, Any]]):
    """In-memory images: ``{"image": uint8 (C, H, W), "label": int64 ()}``.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Read a whole batch at once, which is faster than sample by sample."""
        rows = torch.as_tensor(indices)  # index_select is ten times as fast as indexing
        return {"image": self.images.index_select(0, rows), "label": self.labels.index_select(0, rows)}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "label": self.labels[index]}


class FileImages(Dataset[dict[str, Any]]):
    """Images in files, the middle square scaled: ``{"image": uint8 (C, size, size)[, "label": int64 ()], "path"}``.

    Args:
        paths: one file per image.
        labels: one class per image, from 0; None: no labels.
        size: side in pixels.
        reader: reads an image.
    """

    def __init__(self, paths: list[Path], labels: Sequence[int] | None, size: int, reader: ImageReader) -> None:
        self.paths, self.labels, self.size, self.reader = paths, labels, size, reader

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        sample = {"image": to_tensor(centre_square(self.reader(path), self.size)), "path": str(path)}
        return sample if self.labels is None else sample | {"label": torch.tensor(int(self.labels[index]))}


def resize_images(images: Tensor, size: int | None) -> Tensor:
    """Resize uint8 (N, C, H, W) to (N, C, size, size) with antialias; None returns them unchanged."""
    return images if size in (None, images.shape[-1]) else F.resize_image(images, [size, size], antialias=True)


def centred_statistics(channels: int) -> Statistics:
    """Return mean and std that normalize images to [-1, 1]."""
    return (0.5,) * channels, (0.5,) * channels


def check_square_options(size: int | None, limit: int | None, max_side: int | None) -> None:
    """Raise a UsageError for options that are invalid for square images of one size."""
    for name, value in {"size": size, "limit": limit}.items():
        if value is not None and value < 1:
            raise UsageError(f"data.{name} must be at least 1, got {value}")
    if max_side is not None:
        raise UsageError(f"data.max_side must be null, since all images have one size, got {max_side}; set data.size")


class LabelledImages(VisionDataModule):
    """Base of the data sets of whole images with class labels, normalized to [-1, 1] (mean and std are 0.5).

    Args:
        size: side of the images in pixels; the middle square is scaled to it with antialias. None: unchanged.
        flip: mirror a random half of the training images left-right in every epoch; ``augment`` replaces it.
        limit: maximum number of training images, chosen by ``seed``; None: all.
        mean, std: per channel in [0, 1]; None: 0.5.
    """

    def __init__(
        self,
        size: int | None = None,
        flip: bool = True,
        limit: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **kwargs)
        check_square_options(size, limit, self.max_side)
        self.size, self.flip, self.limit = size, flip, limit

    def default_statistics(self) -> Statistics:
        """Return mean and std of 0.5 per channel, which normalize images to [-1, 1]."""
        return centred_statistics(self.image_shape[0])

    def default_augment(self) -> list[v2.Transform]:
        """Return a left-right flip of half of the images, if ``flip`` is set."""
        return [v2.RandomHorizontalFlip()] if self.flip else []

    def prepare_dataset(self, dataset: SizedDataset) -> SizedDataset:
        """Convert photos for prediction to the size of the data set's images."""
        return SquarePhotos(dataset, self.image_shape[-1]) if isinstance(dataset, Photos) else dataset

    def select_indices(self, count: int, val_fraction: float, split: Literal["train", "val"]) -> np.ndarray:
        """Choose the indices of a split among ``count`` images by the seed: int64, at most ``limit`` for training."""
        order = permute(count, self.seed)
        held_out = round(val_fraction * count)
        return order[:held_out] if split == "val" else order[held_out:][: self.limit]
