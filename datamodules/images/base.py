"""LabelledImages: what data sets of whole pictures with a class each share; made for models that draw such pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.io.read_images import PhotoFolder, read_image, to_tensor
from darkroom.errors import UsageError


class ArrayImages(Dataset):
    """Pictures that lie in memory: ``{"image": uint8 (C, H, W), "label": int64 ()}``.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A whole batch at once: many times faster than one by one."""
        indices = torch.as_tensor(indices)  # index_select, because brackets take ten times as long
        return {"image": self.images.index_select(0, indices), "label": self.labels.index_select(0, indices)}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "label": self.labels[index]}


class FileImages(Dataset):
    """Pictures in files, their middle square scaled: ``{"image": uint8 (C, size, size)[, "label": int64 ()], "path"}``.

    Args:
        paths: one file per picture.
        labels: one class per picture, from 0; None: they have none.
        size: side in pixels.
        channels: 3 for colour, 1 for grey; pictures of the other kind are converted.
    """

    def __init__(self, paths: list[Path], labels: Sequence[int] | None, size: int, channels: int = 3) -> None:
        self.paths, self.labels, self.size, self.channels = paths, labels, size, channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        sample = {"image": to_tensor(centre_square(read_image(path, self.channels), self.size)), "path": str(path)}
        return sample if self.labels is None else sample | {"label": torch.tensor(int(self.labels[index]))}


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """The largest square in the middle of a picture, scaled to ``size`` x ``size`` with antialias."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)


def scaled(images: Tensor, size: int | None) -> Tensor:
    """uint8 (N, C, H, W) -> (N, C, size, size) with antialias; None leaves them as they are."""
    return images if size in (None, images.shape[-1]) else F.resize_image(images, [size, size], antialias=True)


class LabelledImages(VisionDataModule):
    """Base of data sets of whole pictures with class labels, which a network sees in [-1, 1] (mean and std are 0.5).

    Args:
        size: side of the pictures in pixels; they are scaled to it with antialias, of oblong ones the middle square. None:
            as they are.
        flip: mirror half of the training pictures left-right, anew in every epoch; ``augment`` replaces it.
        limit: train on no more pictures than these, drawn by ``seed``; None: on all.
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
        for name, value in {"size": size, "limit": limit}.items():
            if value is not None and value < 1:
                raise UsageError(f"data.{name} is {value}; it must be at least 1")
        if self.max_side is not None:
            raise UsageError(f"data.max_side is {self.max_side}, but these pictures are all of one size; set data.size")
        self.size, self.flip, self.limit = size, flip, limit

    @property
    def mean(self) -> tuple[float, ...]:
        return self._mean_std[0] if self._mean_std else (0.5,) * self.image_shape[0]

    @property
    def std(self) -> tuple[float, ...]:
        return self._mean_std[1] if self._mean_std else (0.5,) * self.image_shape[0]

    def default_augment(self) -> list[v2.Transform]:
        return [v2.RandomHorizontalFlip()] if self.flip else []

    def supplied(self, dataset: Dataset) -> Dataset:
        """Photos to predict on are brought to the size of the others."""
        if not isinstance(dataset, PhotoFolder):
            return dataset
        return FileImages(dataset.paths, None, self.image_shape[-1], self.image_shape[0])

    def drawn(self, count: int, val_fraction: float, split: Literal["train", "val"]) -> np.ndarray:
        """Which of ``count`` pictures train and which validate, drawn by the seed: int64 indices, at most ``limit``."""
        order = self._order(count)
        held_out = round(val_fraction * count)
        return order[:held_out] if split == "val" else order[held_out:][: self.limit]

    def limited(self, pictures: list[Any]) -> list[Any]:
        """At most ``limit`` of the pictures to train on, drawn by the seed."""
        return pictures if self.limit is None else [pictures[i] for i in self._order(len(pictures))[: self.limit]]

    def _order(self, count: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(self.seed))).permutation(count)
