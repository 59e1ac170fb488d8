"""Digits: the 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, without a download."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.datamodules.base import LABELLED_SPLITS, LabelledSplit, Split
from darkroom.datamodules.datasets import limit_items, permute
from darkroom.datamodules.images.base import ArrayImages, LabelledImages, resize_images
from darkroom.datamodules.io.pairing import check_fractions
from darkroom.errors import UsageError
from darkroom.paths import install_command
from darkroom.protocols import SizedDataset

_SIDE = 8


def read_digits() -> tuple[Tensor, Tensor]:
    """Read the images from scikit-learn's package: uint8 (1797, 1, 8, 8), 255 is ink, and labels int64 (1797,).

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # an optional extra
    except ImportError:
        raise UsageError(f"Digits needs the package scikit-learn; install it: {install_command('digits')}") from None
    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)  # ink in blocks of 4 x 4 scanned pixels, 0 to 16
    return torch.from_numpy(images)[:, None], torch.from_numpy(digits.target.astype(np.int64))


class Digits(LabelledImages):
    """Handwritten digits (Alpaydin & Kaynak 1998), as scikit-learn has them: 1,797 grey images, 1 x 8 x 8.

    The images are the test set of UCI's "Optical Recognition of Handwritten Digits", of 13 writers who wrote none of its
    training set. They are in scikit-learn's package (``pip install 'darkroom-vision[digits]'``), so nothing is downloaded.
    Splits are random and stratified: each has the same fraction of every class. They share writers, since the package does
    not name them.

    Args:
        val_fraction, test_fraction: fractions of each class to validate and to test on, chosen by ``seed``.
        size: side in pixels to which the images are enlarged bilinearly, a multiple of 8; None: 8.
        flip, limit, mean, std: see ``LabelledImages``; flip is off, because mirrored digits are wrong.
    """

    class_names: Sequence[str] = tuple("0123456789")

    def __init__(
        self,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        size: int | None = None,
        flip: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(size=size, flip=flip, **kwargs)
        self.fractions = {"val": val_fraction, "test": test_fraction}
        check_fractions(self.fractions)
        if size is not None and size % _SIDE:
            raise UsageError(f"data.size must be a multiple of {_SIDE}, the side of the images, got {size}")
        self.image_shape = 1, size or _SIDE, size or _SIDE

    def select_rows(self, labels: np.ndarray, split: LabelledSplit) -> np.ndarray:
        """Choose the images of a split, the same fraction of every class: int64 rows, in the order of the data."""
        chosen = []
        for number in range(self.num_classes):
            rows = np.flatnonzero(labels == number)
            rows = rows[permute(len(rows), self.seed)]
            val, test = (round(self.fractions[name] * len(rows)) for name in ("val", "test"))
            chosen.append(np.split(rows, [len(rows) - val - test, len(rows) - test])[LABELLED_SPLITS.index(split)])
        return np.sort(np.concatenate(chosen))

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``ArrayImages`` of a split; prediction uses the test split.

        Raises:
            UsageError: scikit-learn is not installed.
        """
        split = "test" if split == "predict" else split
        images, labels = read_digits()
        rows = self.select_rows(labels.numpy(), split).tolist()
        chosen = torch.tensor(limit_items(rows, self.limit, self.seed) if split == "train" else rows, dtype=torch.long)
        return ArrayImages(resize_images(images[chosen], self.size), labels[chosen])
