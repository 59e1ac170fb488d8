"""InstanceFolder: your own pictures, a mask of instance ids beside each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.ndimage import find_objects, label

from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.io.read_images import read_mask
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.errors import DataError, UsageError


def read_instances(path: Path) -> np.ndarray:
    """The instances of a mask of ids, numbered from 1 in the order of their ids, 0 for none: int32 (H, W).

    Raises:
        DataError: the file cannot be read, or looks like a mask without ids.
    """
    ids = np.asarray(read_mask(path)).astype(np.int32)
    values = np.setdiff1d(ids, 0)
    if values.tolist() == [255] and (pieces := label(ids, np.ones((3, 3)))[1]) > 1:
        raise DataError(
            f"{path} has one id, 255, in {pieces} pieces: it looks black and white; number its objects from 1"
        )
    return np.where(ids == 0, 0, np.searchsorted(values, ids) + 1).astype(np.int32)


@dataclass(frozen=True)
class InstanceMasks:
    """Reads the masks of one picture, uint8 (N, H, W), from their ids."""

    path: Path

    def __call__(self) -> np.ndarray:
        instances = read_instances(self.path)
        return (instances == np.arange(1, instances.max() + 1)[:, None, None]).view(np.uint8)


def parse_instances(path: Path, image: Path, image_id: int = 0) -> Annotation:
    """Boxes, all with label 1, and masks of a mask of instance ids.

    Args:
        path: the mask, one integer channel of 8 or 16 bits, or a palette; 0 is background.
        image: its picture.
        image_id: number of the picture.
    """
    instances = read_instances(path)
    boxes = [[x.start, y.start, x.stop, y.stop] for y, x in find_objects(instances)]
    return Annotation(
        path=image,
        size=instances.shape,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.ones(len(boxes), np.int64),
        image_id=image_id,
        source=path,
        masks=InstanceMasks(path),
    )


def _check_ids(annotations: Sequence[Annotation], split: str) -> None:
    """Refuses masks that are black and white: never two ids in one, yet several of them in pieces."""
    if any(len(annotation.boxes) > 1 for annotation in annotations):
        return
    torn = [one.source for one in annotations if label(read_instances(one.source), np.ones((3, 3)))[1] > 1]
    if len(torn) > 1:
        raise DataError(
            f"no mask of the {split} split has two ids, but {len(torn)} have several pieces, such as {torn[0]}: they look "
            "black and white (0 and 1); instances need ids of their own, from 1"
        )


class InstanceFiles(DetectionDataModule):
    """Base of the data sets of instance masks: one class, an object for every id, its box tight around it.

    Args:
        class_name: what the objects are.
    """

    def __init__(self, class_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_names = (class_name,)

    def pairs(self, split: Literal["train", "val", "test"]) -> list[tuple[Path, Path]]:
        """Files of image and mask of one split."""
        raise UsageError(f"{type(self).__name__} does not say which files the {split} split has")

    def annotations(self, split: Literal["train", "val", "test"]) -> list[Annotation]:
        found = self.parsed(split, self.pairs(split), parse_instances)
        _check_ids(found, split)
        return found


class InstanceFolder(InstanceFiles):
    """Your own folders of pictures and masks of instance ids, paired by file name; all objects are of one class.

    Validation and test pictures come from their own folders when given, else from a seeded fraction of the training
    folder. All folders are relative to ``root``.

    Args:
        images_dir, masks_dir: pictures (PNG, JPEG, TIFF, BMP, WebP) and their masks (PNG, TIFF, BMP), 0 for background.
        class_name: what the objects are.
        root: folder that the others are relative to.
        val_images_dir, val_masks_dir, test_images_dir, test_masks_dir: splits by folder.
        val_fraction, test_fraction: splits by chance, for those without folders.
        mask_suffix: what a mask's name has beyond its picture's, for example "_mask".
    """

    def __init__(
        self,
        images_dir: str = "images",
        masks_dir: str = "masks",
        class_name: str = "object",
        root: str = ".",
        val_images_dir: str | None = None,
        val_masks_dir: str | None = None,
        test_images_dir: str | None = None,
        test_masks_dir: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        mask_suffix: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(class_name=class_name, **kwargs)
        self.files = ImageMaskFolder(
            images_dir=images_dir,
            masks_dir=masks_dir,
            root=root,
            val_images_dir=val_images_dir,
            val_masks_dir=val_masks_dir,
            test_images_dir=test_images_dir,
            test_masks_dir=test_masks_dir,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            mask_suffix=mask_suffix,
            seed=self.seed,
        )

    def pairs(self, split: Literal["train", "val", "test"]) -> list[tuple[Path, Path]]:
        return self.files.pairs(split)
