"""MNIST and FashionMNIST: 70,000 grey images of 28 x 28 pixels, ten classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from darkroom.datamodules.base import LABELLED_SPLITS, LabelledSplit, Split
from darkroom.datamodules.images.base import ArrayImages, LabelledImages, resize_images
from darkroom.datamodules.io.hash_random import uniform
from darkroom.datamodules.io.pairing import check_val_fraction
from darkroom.datamodules.loading import Key, KeyedDataset, KeyedSamples, collate, split_key
from darkroom.errors import DataError, UsageError
from darkroom.protocols import SizedDataset

Binarization = Literal["dynamic", "fixed", "threshold"]


def sample_bernoulli(images: Tensor, keys: Sequence[int | np.ndarray]) -> Tensor:
    """Sample white (255) with the intensity of a pixel as probability, else black (0): uint8 (B, ...) -> uint8 (B, ...).

    Args:
        images: uint8 (B, ...).
        keys: keys of the random numbers, ints or arrays with one per image; see ``uniform``.
    """
    white = uniform(keys, images[0].numel()) * 255 < images.flatten(1).numpy()
    return torch.from_numpy(white * np.uint8(255)).view_as(images)


class DynamicBinarization(Dataset[dict[str, Any]]):
    """Images binarized by sampling, again in every epoch: a function of (seed, epoch, index)."""

    makes_batches = True

    def __init__(self, keyed: KeyedSamples, seed: int) -> None:
        if isinstance(keyed, KeyedDataset) and keyed.keys:
            raise UsageError(
                "data.augment_on_device must be false with data.binarize dynamic, which is the last transform"
            )
        self.keyed, self.seed = keyed, seed
        self.dataset = keyed.dataset

    def __len__(self) -> int:
        return len(self.keyed)

    def __getitems__(self, keys: Sequence[Key | int]) -> dict[str, Any]:
        """Make a whole batch at once, which is faster than sample by sample."""
        batch = collate(self.keyed.__getitems__(keys))
        epoch, index = np.array([split_key(key) for key in keys]).T
        return batch | {"image": sample_bernoulli(batch["image"], (self.seed, epoch, index))}

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        return {name: value[0] for name, value in self.__getitems__([key]).items()}


@dataclass(frozen=True)
class IdxFiles:
    """The four files of a data set in MNIST's format.

    Args:
        source: torchvision's data set, with names and URLs of the files.
        root: parent of the data set's folder.
        num_classes: upper bound of the labels, exclusive.
    """

    source: type[datasets.MNIST]
    root: Path
    num_classes: int = 10

    @property
    def folder(self) -> Path:
        """Folder of the four files."""
        return self.root / self.source.__name__ / "raw"

    def fetch(self) -> None:
        """Download the files that are missing.

        Raises:
            DataError: the download fails.
        """
        if all((self.folder / name.removesuffix(".gz")).is_file() for name, _ in self.source.resources):
            return
        try:
            self.source(self.root, download=True)
        except Exception as error:  # RuntimeError, URLError, AssertionError, ValueError, by cause
            raise DataError(
                f"{self.source.__name__} cannot be downloaded to {self.folder} ({' '.join(str(error).split())}); try again "
                f"later, or get the four files of {self.source.mirrors[0]} with a browser and unpack them there"
            ) from error

    def read_file(self, name: str, read: Callable[[str], Tensor]) -> Tensor:
        """Read one of the four files.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = self.folder / name
        wanted = (
            f"data.root must hold {self.source.__name__}/raw with the four files of {self.source.mirrors[0]}, unpacked: "
            "--data.download true fetches what is missing"
        )
        if not path.is_file():
            raise DataError(f"{path} does not exist; {wanted}")
        try:
            return read(str(path))
        except Exception as error:  # AssertionError, RuntimeError, ValueError, by where the file ends
            raise DataError(f"{path} is truncated or damaged; remove it: {wanted}") from error

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Read the training or the test files: images uint8 (N, 1, 28, 28) and labels int64 (N,).

        Raises:
            DataError: a file is missing or damaged, or the two do not match.
        """
        split = "train" if train else "t10k"
        images = self.read_file(f"{split}-images-idx3-ubyte", read_image_file)
        labels = self.read_file(f"{split}-labels-idx1-ubyte", read_label_file)
        if len(images) != len(labels):
            raise DataError(
                f"{self.folder} has {len(images)} images in {split}-images-idx3-ubyte, but {len(labels)} labels in "
                f"{split}-labels-idx1-ubyte; remove both and download them again"
            )
        if images.shape[1:] != (28, 28) or (labels >= self.num_classes).any():
            raise DataError(
                f"{self.folder}: the images in {split}-images-idx3-ubyte must be 28 x 28 and the labels in "
                f"{split}-labels-idx1-ubyte at most {self.num_classes - 1}, got {images.shape[1]} x {images.shape[2]} and "
                f"{max(labels.tolist(), default=0)}; remove both and download them again"
            )
        return images[:, None], labels


def binarize_images(images: Tensor, binarize: Binarization | None, split: LabelledSplit, seed: int) -> Tensor:
    """Binarize the images of a split, except training images with "dynamic": ``DynamicBinarization`` does that."""
    if binarize == "threshold":
        return (images >= 128).to(torch.uint8) * 255
    if binarize is None or (binarize == "dynamic" and split == "train"):
        return images
    indices = np.array_split(np.arange(len(images)), max(1, len(images) // 1024))  # in chunks, to save memory
    return torch.cat([sample_bernoulli(images[i], (seed, LABELLED_SPLITS.index(split), i)) for i in indices])


def _read_split(
    data: LabelledImages, files: IdxFiles, binarize: Binarization | None, val_fraction: float, split: Split
) -> ArrayImages:
    """Read the images of a split at the size of the datamodule, binarized."""
    split = "test" if split == "predict" else split
    images, labels = files.read(train=split != "test")
    if split != "test":
        chosen = torch.from_numpy(data.select_indices(len(images), val_fraction, split))
        images, labels = images[chosen], labels[chosen]
    return ArrayImages(binarize_images(resize_images(images, data.size), binarize, split, data.seed), labels)


class MNIST(LabelledImages):
    """Handwritten digits (LeCun et al. 1998): 60,000 to train and validate on, 10,000 to test on, 1 x 28 x 28.

    ``root`` holds ``MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte``, as torchvision lays it out.

    Args:
        root: the folder that holds ``MNIST``.
        binarize: sets every pixel to 0 or 255. "dynamic": 255 with its intensity as probability, sampled again in every
            epoch of training and once for validation and test (Salakhutdinov and Murray 2008, Burda et al. 2016);
            "fixed": sampled once everywhere; "threshold": 255 from half the intensity on. None: grey.
        val_fraction: fraction of the 60,000 to validate on, chosen by ``seed``.
        download: fetch missing files; torchvision has the URLs and checksums.
        size, flip, limit, mean, std: see ``LabelledImages``; flip is off, because mirrored digits are wrong.
    """

    class_names: Sequence[str] = tuple("0123456789")

    def __init__(
        self,
        root: str = "data",
        binarize: Binarization | None = None,
        val_fraction: float = 0.1,
        download: bool = False,
        flip: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(flip=flip, **kwargs)
        check_val_fraction(val_fraction)
        self.root, self.binarize, self.val_fraction, self.download = Path(root), binarize, val_fraction, download
        self.files = IdxFiles(datasets.MNIST, self.root)
        self.image_shape = 1, self.size or 28, self.size or 28

    def prepare_data(self) -> None:
        """Download the missing files if ``download`` is set."""
        if self.download:
            self.files.fetch()

    def dataset(self, split: Split) -> SizedDataset:
        """Return the images and labels of a split; prediction uses the test split."""
        return _read_split(self, self.files, self.binarize, self.val_fraction, split)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.binarize == "dynamic" and stage == "fit":
            self._datasets["train"] = DynamicBinarization(self._datasets["train"], self.seed)


class FashionMNIST(LabelledImages):
    """Garments (Xiao et al. 2017): number, size and layout of the images as in MNIST.

    ``root`` holds ``FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte``.

    Args:
        root: the folder that holds ``FashionMNIST``.
        binarize, val_fraction, download, size, flip, limit, mean, std: see ``MNIST``.
    """

    class_names: Sequence[str] = tuple(datasets.FashionMNIST.classes)

    def __init__(
        self,
        root: str = "data",
        binarize: Binarization | None = None,
        val_fraction: float = 0.1,
        download: bool = False,
        flip: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(flip=flip, **kwargs)
        check_val_fraction(val_fraction)
        self.root, self.binarize, self.val_fraction, self.download = Path(root), binarize, val_fraction, download
        self.files = IdxFiles(datasets.FashionMNIST, self.root)
        self.image_shape = 1, self.size or 28, self.size or 28

    def prepare_data(self) -> None:
        """Download the missing files if ``download`` is set."""
        if self.download:
            self.files.fetch()

    def dataset(self, split: Split) -> SizedDataset:
        """Return the images and labels of a split; prediction uses the test split."""
        return _read_split(self, self.files, self.binarize, self.val_fraction, split)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.binarize == "dynamic" and stage == "fit":
            self._datasets["train"] = DynamicBinarization(self._datasets["train"], self.seed)
