"""Write small segmentation datasets in their layouts on disk."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def _scene(rng: np.random.Generator, height: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    mask = rng.integers(0, classes, (height // 8 + 1, width // 8 + 1)).repeat(8, 0).repeat(8, 1)[:height, :width]
    image = mask[..., None] * 40 + rng.integers(0, 40, (height, width, 3))
    return image.astype(np.uint8), mask.astype(np.uint8)


def image_mask_folder(root: Path, count: int = 6, classes: int = 2, size: tuple[int, int] = (40, 48)) -> Path:
    """Write ``images/NAME.png`` and ``masks/NAME.png`` (palette index masks)."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image, mask = _scene(rng, *size, classes)
        Image.fromarray(image).save(root / "images" / f"photo{index:02d}.png")
        palette = Image.fromarray(mask)
        palette.putpalette(list(range(256)) * 3)
        palette.save(root / "masks" / f"photo{index:02d}.png")
    return root


def dsb2018(root: Path, count: int = 6) -> Path:
    """Write ``{train,test}/{images,labels}``: grey images of two sizes, masks of instance ids."""
    rng = np.random.default_rng(1)
    for split in ("train", "test"):
        for folder in ("images", "labels"):
            (root / split / folder).mkdir(parents=True)
        for index in range(count):
            image, mask = _scene(rng, 40 + 8 * (index % 2), 40, 12)
            Image.fromarray(image[..., 0]).save(root / split / "images" / f"{index:012x}.png")
            Image.fromarray(mask).save(root / split / "labels" / f"{index:012x}.png")
    return root


def voc(root: Path, year: str = "2007", classes: int = 5, extra: tuple[int, ...] = (5, 255), count: int = 4) -> Path:
    """Write ``VOCdevkit/VOC<year>``: JPEG images of several sizes, index masks with ignored values, lists per split."""
    rng = np.random.default_rng(2)
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for split in ("train", "val", "test"):
        names = [f"{split}_{index}" for index in range(count)]
        (folder / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for index, name in enumerate(names):
            image, mask = _scene(rng, 40 + 4 * index, 56, classes)
            for band, value in enumerate(extra):
                mask[2 * band : 2 * band + 2] = value
            Image.fromarray(image).save(folder / "JPEGImages" / f"{name}.jpg")
            Image.fromarray(mask).save(folder / "SegmentationClass" / f"{name}.png")
    return root


def voc2012(root: Path) -> Path:
    """Write VOC 2012 with its 21 classes."""
    return voc(root, "2012", classes=21, extra=(255,))


def voc2012_sbd(root: Path) -> Path:
    """Write VOC 2012 and SBD with ``.mat`` masks; VOC trains on one image of SBD and validates on two."""
    voc2012(root)
    rng = np.random.default_rng(3)
    folder = root / "benchmark_RELEASE/dataset"
    for name in ("img", "cls"):
        (folder / name).mkdir(parents=True)
    lists = {"train": ["train_0", "val_0", "sbd_0", "sbd_1"], "val": ["sbd_2", "val_1"], "train_noval": ["sbd_0"]}
    for split, names in lists.items():
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            image, mask = _scene(rng, 40, 56, 21)
            Image.fromarray(image).save(folder / "img" / f"{name}.jpg")
            savemat(folder / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": mask, "CategoriesPresent": [1, 2]}})
    return root


def chair_segments(root: Path, splits: tuple[str, ...] = ("train", "val"), count: int = 11) -> Path:
    """Write ``Chair064/{train,val}/{image,mask}/<int>.jpg``: 64 x 64, black and white masks in colour JPEG."""
    rng = np.random.default_rng(4)
    for split in splits:
        for role in ("image", "mask"):
            (root / "Chair064" / split / role).mkdir(parents=True)
        for index in range(count):
            image, mask = _scene(rng, 64, 64, 2)
            Image.fromarray(image).save(root / "Chair064" / split / "image" / f"{index}.jpg")
            Image.fromarray(255 * mask).convert("RGB").save(root / "Chair064" / split / "mask" / f"{index}.jpg")
    return root


def camvid(root: Path, count: int = 4) -> Path:
    """Write ``CamVid/{train,val,test}`` and ``CamVid/{train,val,test}annot``: frames of one size, masks of 0 to 11."""
    rng = np.random.default_rng(5)
    for split in ("train", "val", "test"):
        for folder in (split, f"{split}annot"):
            (root / "CamVid" / folder).mkdir(parents=True)
        for index in range(count):
            image, mask = _scene(rng, 36, 48, 12)
            mask[:4] = 11
            Image.fromarray(image).save(root / "CamVid" / split / f"0001TP_{index:06d}.png")
            Image.fromarray(mask).save(root / "CamVid" / f"{split}annot" / f"0001TP_{index:06d}.png")
    return root


def cityscapes(root: Path, count: int = 2) -> Path:
    """Write ``leftImg8bit/<split>/<city>`` and ``gtFine/<split>/<city>``: label ids 0 to 33, two cities per split."""
    rng = np.random.default_rng(6)
    for split, cities in {"train": ("aachen", "ulm"), "val": ("munster", "lindau")}.items():
        for city in cities:
            images, masks = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
            images.mkdir(parents=True)
            masks.mkdir(parents=True)
            for index in range(count):
                image, mask = _scene(rng, 32, 64, 34)
                mask[0, :34] = np.arange(34)
                Image.fromarray(image).save(images / f"{city}_{index:06d}_000019_leftImg8bit.png")
                Image.fromarray(mask).save(masks / f"{city}_{index:06d}_000019_gtFine_labelIds.png")
    return root


def oxford_pets(root: Path, count: int = 12) -> Path:
    """Write ``images/<Breed>_<n>.jpg``, ``annotations/trimaps/<Breed>_<n>.png`` of 1 to 3, and lists of names."""
    rng = np.random.default_rng(7)
    (root / "images").mkdir(parents=True)
    (root / "annotations/trimaps").mkdir(parents=True)
    for index in range(count):
        image, mask = _scene(rng, 40 + 4 * (index % 3), 48, 3)
        Image.fromarray(image).save(root / "images" / f"Abyssinian_{index}.jpg")
        Image.fromarray(mask + 1).save(root / "annotations/trimaps" / f"Abyssinian_{index}.png")
    for split, indices in {"trainval": range(count - 3), "test": range(count - 3, count)}.items():
        (root / "annotations" / f"{split}.txt").write_text("".join(f"Abyssinian_{i} 1 1 1\n" for i in indices))
    return root


def cells(root: Path, count: int = 6) -> Path:
    """Write grey ``images/`` and ``masks/`` of instance ids of touching cells."""
    rng = np.random.default_rng(8)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        image, mask = _scene(rng, 40, 48, 12)
        Image.fromarray(image[..., 0]).save(root / "images" / f"t{index:03d}.png")
        Image.fromarray(mask).save(root / "masks" / f"t{index:03d}.png")
    return root


FAKES = {
    "cells": cells,
    "camvid": camvid,
    "chair_segments": chair_segments,
    "cityscapes": cityscapes,
    "oxford_pets": oxford_pets,
    "voc2012": voc2012,
    "voc2012_sbd": voc2012_sbd,
    "dsb2018": dsb2018,
    "dubai_aerial": voc,
    "image_mask_folder": image_mask_folder,
}
