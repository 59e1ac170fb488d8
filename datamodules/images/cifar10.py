"""CIFAR10: 60,000 colour images of 32 x 32 pixels, ten classes."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from darkroom.datamodules.base import Split
from darkroom.datamodules.images.base import ArrayImages, LabelledImages, resize_images
from darkroom.datamodules.io.download import fetch_folder
from darkroom.datamodules.io.pairing import check_val_fraction
from darkroom.errors import DataError
from darkroom.protocols import SizedDataset

FOLDER = datasets.CIFAR10.base_folder  # cifar-10-batches-py


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of arrays alone, because other pickles may run any code."""

    def find_class(self, module: str, name: str) -> Any:
        reconstruct = np.zeros(0).__reduce__()[0]  # function that numpy's pickles call, in any version
        needed = {"ndarray": np.ndarray, "dtype": np.dtype, "_reconstruct": reconstruct}
        if module.split(".")[0] == "numpy" and name in needed:
            return needed[name]
        if (module, name) == ("_codecs", "encode"):  # encoding of bytes by Python 3 for Python 2
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} instead of arrays")


def read_batch(path: Path) -> tuple[np.ndarray, list[int]]:
    """Read images uint8 (N, 3, 32, 32) and their classes from a file of rows of 3,072 bytes (red, green, blue planes).

    Raises:
        DataError: the file is missing or damaged.
    """
    wanted = f"data.root must hold {FOLDER}, as unpacked from {datasets.CIFAR10.url}: --data.download true fetches it"
    if not path.is_file():
        raise DataError(f"{path} does not exist; {wanted}")
    try:
        with path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="latin1").load()
        rows, labels = batch["data"].reshape(-1, 3, 32, 32), batch["labels"]
        if rows.dtype != np.uint8 or len(rows) != len(labels) or not set(labels) <= set(range(10)):
            raise ValueError(f"{len(rows)} images of {rows.dtype}, {len(labels)} labels, not all of 0 to 9")
        return rows, labels
    except Exception as error:  # a damaged pickle may raise any exception
        raise DataError(f"{path} cannot be read as a batch of CIFAR-10 ({error}); {wanted}") from error


class CIFAR10(LabelledImages):
    """CIFAR-10 (Krizhevsky 2009): 50,000 images to train and validate on, 10,000 to test, 3 x 32 x 32.

    ``root`` holds ``cifar-10-batches-py/{data_batch_1..5,test_batch}``.

    Args:
        root: the folder that holds ``cifar-10-batches-py``.
        val_fraction: fraction of the 50,000 to validate on, chosen by ``seed``.
        download: fetch missing files; torchvision has URL and checksum.
        size, flip, limit, mean, std: see ``LabelledImages``.
    """

    class_names: Sequence[str] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )

    def __init__(
        self, root: str = "data", val_fraction: float = 0.1, download: bool = False, flip: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(flip=flip, **kwargs)
        check_val_fraction(val_fraction)
        self.root, self.val_fraction, self.download = Path(root), val_fraction, download
        self.image_shape = 3, self.size or 32, self.size or 32

    def prepare_data(self) -> None:
        """Download and unpack the archive if ``download`` is set and the folder is missing."""
        if self.download:
            fetch_folder(datasets.CIFAR10.url, self.root / FOLDER, inside=FOLDER, md5=datasets.CIFAR10.tgz_md5)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Read the training or the test files: images uint8 (N, 3, 32, 32) and labels int64 (N,)."""
        files = datasets.CIFAR10.train_list if train else datasets.CIFAR10.test_list
        images, labels = zip(*(read_batch(self.root / FOLDER / name) for name, _ in files), strict=True)
        return torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels))

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``ArrayImages`` of a split; prediction uses the test split."""
        split = "test" if split == "predict" else split
        images, labels = self.read(train=split != "test")
        if split != "test":
            chosen = torch.from_numpy(self.select_indices(len(images), self.val_fraction, split))
            images, labels = images[chosen], labels[chosen]
        return ArrayImages(resize_images(images, self.size), labels)
