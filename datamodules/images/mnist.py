"""MNIST and FashionMNIST: 70,000 grey pictures of 28 x 28 pixels, ten classes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from darkroom.datamodules.images.base import ArrayImages, LabelledImages, scaled
from darkroom.datamodules.io.hash_random import uniform
from darkroom.datamodules.loading import Key, KeyedDataset, collate
from darkroom.datamodules.shapes.scenes import SPLITS
from darkroom.errors import DataError, UsageError


def bernoulli(images: Tensor, keys: Sequence[int | np.ndarray]) -> Tensor:
    """White (255) with a pixel's intensity for probability, else black (0), drawn by the keys (ints, or one per picture).

    uint8 (B, ...) -> uint8 of the same shape.
    """
    drawn = uniform(keys, images[0].numel()) * 255 < images.flatten(1).numpy()
    return torch.from_numpy(drawn * np.uint8(255)).view_as(images)


class DrawnAnew(Dataset):
    """Grey pictures made black and white by a draw that every epoch makes anew: a function of (seed, epoch, index)."""

    def __init__(self, dataset: KeyedDataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: list[Key | int]) -> dict[str, Any]:
        """A whole batch at once: many times faster than one by one."""
        batch = collate(self.dataset.__getitems__(keys))
        epoch, index = np.array([key if isinstance(key, tuple) else (0, key) for key in keys]).T
        return batch | {"image": bernoulli(batch["image"], (self.seed, epoch, index))}

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        return {name: value[0] for name, value in self.__getitems__([key]).items()}


class MNIST(LabelledImages):
    """Handwritten digits (LeCun et al. 1998): 60,000 to train and validate on, 10,000 to test, 1 x 28 x 28.

    ``root`` holds ``MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte``, as torchvision lays it out.

    Args:
        root: the folder that holds ``MNIST``.
        binarize: makes every pixel 0 or 255. "dynamic": white with its intensity for probability, drawn anew in every
            epoch of training and once for validation and test (Salakhutdinov and Murray 2008, Burda et al. 2016);
            "fixed": drawn once everywhere; "threshold": white from half the intensity on. None: grey.
        val_fraction: share of the 60,000 to validate on, drawn by ``seed``.
        download: fetch what is missing; torchvision knows addresses and checksums.
        size, flip, limit, mean, std: see ``LabelledImages``; flip is off, because digits have a left and a right.
    """

    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    source: ClassVar[type[datasets.MNIST]] = datasets.MNIST

    def __init__(
        self,
        root: str = "data",
        binarize: Literal["dynamic", "fixed", "threshold"] | None = None,
        val_fraction: float = 0.1,
        download: bool = False,
        flip: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(flip=flip, **kwargs)
        if not 0 < val_fraction < 1:
            raise UsageError(f"data.val_fraction is {val_fraction}; it must lie between 0 and 1")
        self.root, self.binarize, self.val_fraction, self.download = Path(root), binarize, val_fraction, download

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 1, self.size or 28, self.size or 28

    @property
    def folder(self) -> Path:
        """Where the four files lie."""
        return self.root / self.source.__name__ / "raw"

    def prepare_data(self) -> None:
        if not self.download or all(
            (self.folder / name.removesuffix(".gz")).is_file() for name, _ in self.source.resources
        ):
            return
        try:
            self.source(self.root, download=True)
        except Exception as error:  # RuntimeError, URLError, AssertionError, ValueError, depending on what is wrong
            raise DataError(
                f"{self.source.__name__} cannot be downloaded to {self.folder} ({' '.join(str(error).split())}); try again "
                f"later, or get the four files of {self.source.mirrors[0]} with a browser and unpack them there"
            ) from error

    def read_file(self, name: str, read: Callable[[str], Tensor]) -> Tensor:
        """What one of the four files holds."""
        path = self.folder / name
        wanted = (
            f"data.root must hold {self.source.__name__}/raw with the four files of {self.source.mirrors[0]}, unpacked: "
            "--data.download true fetches what is missing"
        )
        if not path.is_file():
            raise DataError(f"{path} does not exist; {wanted}")
        try:
            return read(str(path))
        except Exception as error:  # AssertionError, RuntimeError, ValueError, depending on where it ends
            raise DataError(f"{path} is cut short or damaged; remove it: {wanted}") from error

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """The files to train on, or to test on: uint8 (N, 1, 28, 28) and int64 (N,)."""
        split = "train" if train else "t10k"
        images = self.read_file(f"{split}-images-idx3-ubyte", read_image_file)
        labels = self.read_file(f"{split}-labels-idx1-ubyte", read_label_file)
        if len(images) != len(labels):
            raise DataError(
                f"{self.folder} holds {len(images)} pictures in {split}-images-idx3-ubyte, but {len(labels)} labels in "
                f"{split}-labels-idx1-ubyte; remove both and get them anew"
            )
        known = len(self.class_names)
        if images.shape[1:] != (28, 28) or (labels >= known).any():
            raise DataError(
                f"{self.folder} holds pictures of {images.shape[1]} x {images.shape[2]} in {split}-images-idx3-ubyte and "
                f"labels of up to {max(labels.tolist(), default=0)} in {split}-labels-idx1-ubyte; 28 x 28 and {known - 1} "
                "would be right: remove both and get them anew"
            )
        return images[:, None], labels

    def dataset(self, split: Literal["train", "val", "test", "predict"]) -> Dataset:
        split = "test" if split == "predict" else split
        images, labels = self.read(train=split != "test")
        if split != "test":
            drawn = torch.from_numpy(self.drawn(len(images), self.val_fraction, split))
            images, labels = images[drawn], labels[drawn]
        images = scaled(images, self.size)
        if self.binarize == "threshold":
            images = (images >= 128).to(torch.uint8) * 255
        elif self.binarize == "fixed" or (self.binarize == "dynamic" and split != "train"):
            indices = np.array_split(np.arange(len(images)), max(1, len(images) // 1024))  # few at a time, for memory
            images = torch.cat([bernoulli(images[i], (self.seed, SPLITS.index(split), i)) for i in indices])
        return ArrayImages(images, labels)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.binarize == "dynamic" and stage == "fit":
            self._datasets["train"] = DrawnAnew(self._datasets["train"], self.seed)


class FashionMNIST(MNIST):
    """Garments (Xiao et al. 2017): as many pictures as MNIST, of its size and in its layout.

    ``root`` holds ``FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte``. Args: see ``MNIST``.
    """

    class_names = tuple(datasets.FashionMNIST.classes)
    source = datasets.FashionMNIST
