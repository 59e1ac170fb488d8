"""ChairSegments: chairs cut out and pasted into scenes, 64 x 64 pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.io.download import fetch_folder
from darkroom.datamodules.io.pairing import pair_by_name
from darkroom.datamodules.io.read_images import read_image
from darkroom.datamodules.segmentation.base import SegmentationFiles
from darkroom.errors import DataError

URL = "https://www.cs.rice.edu/~vo9/chair-segments/Chair064.zip"


def read_chair_mask(path: Path) -> Image.Image:
    """Read a mask: 1 where the first channel exceeds 0.4 of its range, else 0, for colour and JPEG masks."""
    return Image.fromarray((np.asarray(read_image(path))[..., 0] > 0.4 * 255).astype(np.uint8))


def pair_by_number(folder: Path) -> list[tuple[Path, Path]]:
    """Pair ``image/<int>.*`` with ``mask/<int>.*``, in the order of the integers."""
    pairs = pair_by_name(folder / "image", folder / "mask")
    for image, _ in pairs:
        if not image.stem.isdecimal():
            raise DataError(f"{image}: the name must be a number; Chair Segments names its images 0, 1, 2 and so on")
    if not pairs:
        raise DataError(f"{folder / 'image'} has no images; unpack the archive again")
    return sorted(pairs, key=lambda pair: int(pair[0].stem))


def check_layout(folder: Path) -> None:
    """Raise a DataError unless ``train`` and ``val`` have a mask for every image."""
    for split in ("train", "val"):
        pair_by_number(folder / split)


class ChairSegments(SegmentationFiles):
    """Chair Segments (Pinto-Alva et al. 2020): 50,000 composites of about 900 chairs on 10,000 scenes to train on.

    ``root`` holds ``Chair064/{train,val[,test]}/{image,mask}/<int>.<ext>``; the test split is ``val`` without a
    ``test`` folder. All images have one size, so evaluation can use larger batches.

    Args:
        root: folder that holds ``Chair064``.
        crop: side of the training window in pixels; 64 is the whole image.
        download: fetch missing files. The archive has no published checksum, so its layout is verified, a mask for every
            image, and the checksums of its members in the zip.
        sha256: expected checksum of the archive, if you know it.
    """

    read_mask = staticmethod(read_chair_mask)

    def __init__(
        self,
        root: str = "data",
        crop: int = 64,
        download: bool = False,
        sha256: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_names=("background", "chair"), crop=crop, **kwargs)
        self.folder, self.download, self.sha256 = Path(root) / "Chair064", download, sha256

    def prepare_data(self) -> None:
        """Download and unpack the archive if ``download`` is set and the folder is missing."""
        if self.download:
            fetch_folder(URL, self.folder, inside="Chair064", sha256=self.sha256, check=check_layout)

    def pairs(self, split: LabelledSplit) -> list[tuple[Path, Path]]:
        """Return the files of image and mask of one split.

        Raises:
            DataError: the folder is missing.
        """
        if not self.folder.is_dir():
            raise DataError(
                f"folder {self.folder} does not exist; data.root must hold Chair064, as unpacked from {URL}: "
                "--data.download true fetches it"
            )
        if split == "test" and not (self.folder / "test").is_dir():
            split = "val"
        return pair_by_number(self.folder / split)
