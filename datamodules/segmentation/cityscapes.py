"""Cityscapes: streets of 50 cities, 19 classes."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision import datasets

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.io.read_images import IGNORE
from darkroom.datamodules.io.read_mask import read_mask
from darkroom.datamodules.segmentation.base import SegmentationFiles
from darkroom.errors import DataError

ADDRESS = "https://www.cityscapes-dataset.com"
_TRAINED = sorted(
    (kind for kind in datasets.Cityscapes.classes if kind.train_id not in (-1, 255)), key=lambda k: k.train_id
)
TRAIN_IDS = np.full(256, IGNORE, np.uint8)  # by label id
TRAIN_IDS[[kind.id for kind in _TRAINED]] = [kind.train_id for kind in _TRAINED]


def read_label_ids(path: Path) -> Image.Image:
    """Read a ``labelIds`` mask as the ids to train on, 0 to 18; all other labels become 255."""
    return Image.fromarray(TRAIN_IDS[np.clip(np.asarray(read_mask(path)), 0, 255)])


class Cityscapes(SegmentationFiles):
    """Cityscapes (Cordts et al. 2016), fine annotations: 2,975 / 500 photos of 2048 x 1024 pixels.

    ``root`` holds ``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` and ``gtFine/<split>/<city>/*_gtFine_labelIds.png``.
    The masks of the official test split are not public, so the test split is ``val``. Cityscapes requires
    registration, so the download is manual.

    Args:
        root: folder that holds ``leftImg8bit`` and ``gtFine``.
    """

    read_mask = staticmethod(read_label_ids)

    def __init__(self, root: str = "data/cityscapes", crop: int = 512, **kwargs: Any) -> None:
        super().__init__(class_names=[kind.name for kind in _TRAINED], crop=crop, **kwargs)
        self.root = Path(root)

    def pairs(self, split: LabelledSplit) -> list[tuple[Path, Path]]:
        """Return the files of image and mask of one split; the test split is ``val``.

        Raises:
            DataError: a folder or a mask is missing.
        """
        images, masks = (
            self.root / part / ("train" if split == "train" else "val") for part in ("leftImg8bit", "gtFine")
        )
        for folder in (images, masks):
            if not folder.is_dir():
                raise DataError(
                    f"folder {folder} does not exist; data.root must hold leftImg8bit and gtFine, as unpacked from the "
                    f"archives of {ADDRESS} (registration required)"
                )
        pairs = []
        for image in sorted(images.glob("*/*_leftImg8bit.png")):
            mask = masks / image.parent.name / image.name.replace("_leftImg8bit", "_gtFine_labelIds")
            if not mask.is_file():
                raise DataError(f"{mask} does not exist, but {image} does; every photo must have its labelIds")
            pairs.append((image, mask))
        return pairs
