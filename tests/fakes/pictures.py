"""Writes small data sets in the layouts that users have on disk."""

from pathlib import Path

import numpy as np
from PIL import Image


def _scene(rng: np.random.Generator, height: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    mask = rng.integers(0, classes, (height // 8 + 1, width // 8 + 1)).repeat(8, 0).repeat(8, 1)[:height, :width]
    image = mask[..., None] * 40 + rng.integers(0, 40, (height, width, 3))
    return image.astype(np.uint8), mask.astype(np.uint8)


def image_mask_folder(root: Path, count: int = 6, classes: int = 2, size: tuple[int, int] = (40, 48)) -> Path:
    """``images/NAME.png`` and ``masks/NAME.png`` (palette index masks)."""
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
    """``{train,test}/{images,labels}``: grey pictures of two sizes, masks of instance ids."""
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
    """``VOCdevkit/VOC<year>``: JPEG pictures of several sizes, index masks with values to be ignored, lists per split."""
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


FAKES = {"dsb2018": dsb2018, "dubai_aerial": voc}
