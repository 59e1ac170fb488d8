"""VOCSegmentation: PASCAL VOC 2007-2012, or any data in its layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from darkroom.errors import DataError
from datamodules.image_mask_folder import SegmentationFiles

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class VOCSegmentation(SegmentationFiles):
    """Segmentation in PASCAL VOC layout (Everingham et al. 2010): lists in ``ImageSets/Segmentation``, palette masks.

    ``root`` holds ``VOCdevkit/VOC<year>/{JPEGImages,SegmentationClass,ImageSets/Segmentation/<split>.txt}``. The contour
    value 255 is ignored. VOC publishes no test masks, so the test split is ``val`` unless you have better.

    Args:
        root: the folder that holds ``VOCdevkit``.
        year: which folder ``VOC<year>``.
        class_names: the classes in the order of their values in the masks; default: VOC's 21.
        train_list, val_list, test_list: which file in ``ImageSets/Segmentation`` names a split's pictures.
    """

    def __init__(
        self,
        root: str = "data",
        year: str = "2012",
        class_names: Sequence[str] = VOC_CLASSES,
        train_list: str = "train",
        val_list: str = "val",
        test_list: str = "val",
        **kwargs: Any,
    ) -> None:
        super().__init__(class_names=class_names, **kwargs)
        self.root, self.year = Path(root), year
        self.lists = {"train": train_list, "val": val_list, "test": test_list}

    def pairs(self, split: Literal["train", "val", "test"]) -> list[tuple[Path, Path]]:
        folder = self.root / "VOCdevkit" / f"VOC{self.year}"
        if not folder.is_dir():
            raise DataError(
                f"folder {folder} does not exist; data.root must hold VOCdevkit/VOC{self.year}, as unpacked from the "
                "archive that torchvision.datasets.VOCSegmentation downloads"
            )
        names = folder / "ImageSets" / "Segmentation" / f"{self.lists[split]}.txt"
        if not names.is_file():
            raise DataError(f"{names} does not exist; it should list the {split} pictures, one name a line")
        pairs = []
        for name in names.read_text().split():
            pair = folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png"
            for path in pair:
                if not path.is_file():
                    raise DataError(f"{path} does not exist, but {names} lists {name}")
            pairs.append(pair)
        return pairs
