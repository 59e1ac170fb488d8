"""OxfordPets: cats and dogs of 37 breeds, cut out from the background."""

from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from torchvision.datasets import OxfordIIITPet

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.io.download import fetch_folder
from darkroom.datamodules.io.pairing import check_val_fraction, choose_split, pair_by_list
from darkroom.datamodules.io.read_images import IGNORE
from darkroom.datamodules.io.read_mask import read_mask
from darkroom.datamodules.segmentation.base import SegmentationFiles
from darkroom.errors import DataError

PET, BACKGROUND, BORDER = 1, 2, 3


def read_trimap(path: Path, border: int) -> Image.Image:
    """Read a trimap as classes: 0 background, 1 pet, and ``border`` for the contour between them.

    Raises:
        DataError: the file has other values.
    """
    trimap = np.asarray(read_mask(path))
    if wrong := set(np.unique(trimap).tolist()) - {PET, BACKGROUND, BORDER}:
        raise DataError(f"{path} has the value {min(wrong)}; a trimap must have 1 (pet), 2 (background) and 3 (border)")
    return Image.fromarray(np.array([0, 1, 0, border], np.uint8)[trimap])


class OxfordPets(SegmentationFiles):
    """Oxford-IIIT Pet (Parkhi et al. 2012): 3,680 photos to train and validate on, 3,669 to test.

    ``root`` holds ``images/*.jpg``, ``annotations/trimaps/*.png`` and the lists ``annotations/{trainval,test}.txt``.

    Args:
        root: folder that holds ``images`` and ``annotations``.
        border: class of the contour of a few pixels around a pet, or "ignore".
        val_fraction: fraction of ``trainval`` to validate on, chosen by ``seed``.
        download: fetch missing archives; torchvision has their URLs and checksums.
    """

    def __init__(
        self,
        root: str = "data/oxford_pets",
        border: Literal["ignore", "pet", "background"] = "ignore",
        val_fraction: float = 0.1,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_names=("background", "pet"), **kwargs)
        check_val_fraction(val_fraction)
        self.root, self.val_fraction, self.download = Path(root), val_fraction, download
        self.read_mask = partial(read_trimap, border={"ignore": IGNORE, "pet": 1, "background": 0}[border])

    def prepare_data(self) -> None:
        """Download and unpack the missing archives if ``download`` is set."""
        for url, md5 in OxfordIIITPet._RESOURCES if self.download else ():
            name = PurePosixPath(urlsplit(url).path).name.removesuffix(".tar.gz")  # images, annotations
            fetch_folder(url, self.root / name, inside=name, md5=md5)

    def pairs(self, split: LabelledSplit) -> list[tuple[Path, Path]]:
        """Return the files of image and trimap of one split.

        Raises:
            DataError: a folder is missing.
        """
        images, annotations = self.root / "images", self.root / "annotations"
        for folder in (images, annotations):
            if not folder.is_dir():
                raise DataError(
                    f"folder {folder} does not exist; data.root must hold images and annotations, as unpacked from "
                    "https://www.robots.ox.ac.uk/~vgg/data/pets: --data.download true fetches them"
                )
        names = annotations / ("test.txt" if split == "test" else "trainval.txt")
        pairs = pair_by_list(names, images, annotations / "trimaps")
        if split == "test":
            return pairs
        return choose_split(pairs, {"val": self.val_fraction}, self.seed, split, "restore trainval.txt")
