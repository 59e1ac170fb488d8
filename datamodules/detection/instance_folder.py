"""InstanceFolder: your own images, each with a mask of instance ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import find_objects, label

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.io.read_mask import read_mask
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.errors import DataError


def read_instances(path: Path) -> np.ndarray:
    """Read the instances of a mask of ids, numbered from 1 in the order of their ids, 0 for none: int32 (H, W).

    Raises:
        DataError: the file cannot be read, or looks like a mask without ids.
    """
    ids = np.asarray(read_mask(path)).astype(np.int32)
    values = np.setdiff1d(ids, 0)
    if values.tolist() == [255] and (pieces := label(ids, np.ones((3, 3)))[1]) > 1:
        raise DataError(
            f"{path} has one id, 255, in {pieces} pieces, like a black and white mask; number its objects from 1"
        )
    return np.where(ids == 0, 0, np.searchsorted(values, ids) + 1).astype(np.int32)


@dataclass(frozen=True)
class InstanceMasks:
    """Reader of the masks of one image, uint8 (N, H, W), from their ids."""

    path: Path

    def __call__(self) -> np.ndarray:
        instances = read_instances(self.path)
        return (instances == np.arange(1, instances.max() + 1)[:, None, None]).view(np.uint8)


def parse_instances(path: Path, image: Path, image_id: int = 0) -> Annotation:
    """Read boxes, all with label 1, and masks from a mask of instance ids.

    Args:
        path: the mask, one integer channel of 8 or 16 bits, or a palette; 0 is background.
        image: file of the image.
        image_id: number of the image.
    """
    instances = read_instances(path)
    boxes = [[x.start, y.start, x.stop, y.stop] for y, x in find_objects(instances)]
    return Annotation(
        path=image,
        size=(instances.shape[0], instances.shape[1]),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.ones(len(boxes), np.int64),
        image_id=image_id,
        source=path,
        masks=InstanceMasks(path),
    )


def _check_ids(annotations: Sequence[Annotation], split: str) -> None:
    """Raise a DataError for black and white masks: none has two ids, but several have more than one piece."""
    if any(len(annotation.boxes) > 1 for annotation in annotations):
        return
    torn = [one.source for one in annotations if label(read_instances(one.source), np.ones((3, 3)))[1] > 1]
    if len(torn) > 1:
        raise DataError(
            f"no mask of the {split} split has two ids, but {len(torn)} have several pieces, such as {torn[0]}, like black "
            "and white masks (0 and 1); every instance must have its own id, from 1"
        )


def read_instance_annotations(
    data: DetectionDataModule, split: LabelledSplit, pairs: Sequence[tuple[Path, Path]]
) -> list[Annotation]:
    """Read the annotations of a split: one class, an object for every id, its box tight around it.

    Args:
        data: datamodule, which records images that cannot be read.
        split: of the images.
        pairs: files of image and mask.
    """
    annotations = data.parse_pairs(split, pairs, parse_instances)
    _check_ids(annotations, split)
    return annotations


class InstanceFolder(DetectionDataModule):
    """Your own folders of images and masks of instance ids, paired by file name; all objects are of one class.

    Validation and test images come from their own folders when given, else from a seeded fraction of the training
    folder. All folders are relative to ``root``.

    Args:
        images_dir, masks_dir: images (PNG, JPEG, TIFF, BMP, WebP) and their masks (PNG, TIFF, BMP), 0 for background.
        class_name: class of all objects.
        root: folder that the others are relative to.
        val_images_dir, val_masks_dir, test_images_dir, test_masks_dir: splits by folder.
        val_fraction, test_fraction: fractions of the random splits, for those without folders.
        mask_suffix: suffix of a mask's name that its image's name lacks, for example "_mask".
    """

    class_names: Sequence[str] = ()

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
        super().__init__(**kwargs)
        self.class_names = (class_name,)
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

    def annotations(self, split: LabelledSplit) -> list[Annotation]:
        """Read boxes and masks of a split; see ``read_instance_annotations``."""
        return read_instance_annotations(self, split, self.files.pairs(split))
