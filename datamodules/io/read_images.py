"""Read images and masks of any common format from files as uint8 tensors; errors name the file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import label
from torch import Tensor
from torch.utils.data import Dataset

from darkroom.datamodules.io.exif import Exif, rotates
from darkroom.datamodules.io.image_files import (
    EXTENSIONS,
    MAX_PIXELS,
    ImageSource,
    Pixels,
    Rotate,
    read_header,
    read_orientation,
    read_pixels,
    read_pixels_or_tensor,
    stored,
)
from darkroom.datamodules.io.pixel_scale import PixelScale
from darkroom.datamodules.io.read_mask import read_mask
from darkroom.errors import DataError

IGNORE = 255


def shrink(image: Image.Image, max_side: int | None, resample: Image.Resampling) -> Image.Image:
    """Scale an image down so that its longer side is at most ``max_side``; smaller ones are unchanged."""
    scale = (max_side or max(image.size)) / max(image.size)
    return (
        image
        if scale >= 1
        else image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)
    )


@dataclass(frozen=True)
class ImageReader:
    """Reader of the images of a datamodule as RGB or grey, 8 bits.

    Grey, palette, CMYK and alpha images are converted. Photos are rotated by their EXIF data.

    Args:
        channels: 3 for RGB, 1 for grey.
        scale: conversion of images with more than 8 bits per channel.
        max_pixels: largest height times width; None: no limit.
        background: grey value of transparent pixels, 0 to 255.
    """

    channels: int = 3
    scale: PixelScale = field(default_factory=PixelScale)
    max_pixels: int | None = MAX_PIXELS
    background: int = 0

    def __call__(self, file: ImageSource, rotate: Rotate = True) -> Image.Image:
        """Read an image; ``rotate`` False leaves its pixels as stored.

        Raises:
            DataError: the file cannot be read, is too large, or has pixels of unknown range.
        """
        return self._convert(read_pixels(file, rotate, self.max_pixels), file)

    def read_tensor(
        self, file: ImageSource, rotate: Rotate = True, max_side: int | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Read an image as uint8 (channels, H, W), scaled down to ``max_side``, and its height and width before that.

        The values are those of ``to_tensor`` of the image; TorchCodec decodes plain images faster, where it is installed.

        Raises:
            DataError: see above.
        """
        read = read_pixels_or_tensor(file, self.channels, rotate, self.max_pixels)
        if isinstance(read, Pixels):
            image = self._convert(read, file)
            return to_tensor(image, max_side), (image.height, image.width)
        size = read.shape[-2], read.shape[-1]
        if max_side is not None and max(size) > max_side:
            return to_tensor(Image.fromarray(read.permute(1, 2, 0).squeeze(2).numpy()), max_side), size
        return read.contiguous(), size

    def _convert(self, pixels: Pixels, file: ImageSource) -> Image.Image:
        """Convert pixels to RGB or grey, 8 bits."""
        image = self.scale.to_8_bits(pixels, file)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*(self.background,) * 3, 255)), image)
        if self.channels == 1 and image.mode not in ("1", "L"):
            image = image.convert("RGB")  # Pillow converts LAB to grey in two steps alone
        return image.convert("RGB" if self.channels == 3 else "L")


def read_image(file: ImageSource, channels: int = 3, rotate: Rotate = True) -> Image.Image:
    """Read an image as RGB (3 channels) or grey (1), 8 bits; see ``ImageReader``."""
    return ImageReader(channels)(file, rotate)


def to_tensor(image: Image.Image, max_side: int | None = None) -> Tensor:
    """Convert an image to uint8 (C, H, W), scaled down to ``max_side``."""
    array = np.array(shrink(image, max_side, Image.Resampling.BILINEAR))
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1).contiguous()


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """Crop the largest square in the middle of an image and scale it to ``size`` x ``size`` with antialias."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)


def connected_components(classes: np.ndarray) -> np.ndarray:
    """Number the connected components of all classes except background and ignored, from 1: int32 (H, W).

    Pixels of a class that touch at a corner are connected. ``classes``: uint8 (H, W).
    """
    pieces = np.zeros(classes.shape, np.int32)
    for value in np.setdiff1d(classes, (0, IGNORE)):
        found, _ = label(classes == value, np.ones((3, 3)))
        pieces += np.where(found, found + pieces.max(), 0).astype(np.int32)
    return pieces


class ImageMaskPairs(Dataset[dict[str, Any]]):
    """Images and their masks: ``{"image": uint8 (C, H, W), "mask": uint8 (H, W), "path": str, "size": (height, width)}``.

    With ``instances`` also ``"instances"``, int32 (H, W): numbers from 1, 0 for none.

    Args:
        pairs: files of image and mask.
        num_classes: upper bound of mask values, exclusive, after ``mask_values`` and ``ignore_values`` are applied.
        mask_values: "index": a pixel's value is its class; "nonzero": 0 is background, everything else class 1 (instance
            ids, or 0 and 255).
        ignore_values: values that loss and metrics ignore; they become 255.
        reader: reads an image.
        max_side: see ``to_tensor``.
        instances: add ``instances``: the ids of the mask, if "nonzero" merges two or more of them into one class, else the
            connected components of every class.
        read_mask: reads a file that is not an index mask; worker processes must be able to import it.
        exif: see ``rotates``.
    """

    def __init__(
        self,
        pairs: list[tuple[Path, Path]],
        num_classes: int,
        mask_values: Literal["index", "nonzero"] = "index",
        ignore_values: tuple[int, ...] = (IGNORE,),
        reader: ImageReader | None = None,
        max_side: int | None = None,
        instances: bool = False,
        read_mask: Callable[[Path], Image.Image] = read_mask,
        exif: Exif | None = None,
    ) -> None:
        self.paths, self.masks = [image for image, _ in pairs], [mask for _, mask in pairs]
        self.num_classes, self.mask_values = num_classes, mask_values
        self.ignore_values, self.reader, self.max_side = ignore_values, reader or ImageReader(), max_side
        self.instances, self.read_mask, self.exif = instances, read_mask, exif

    def __len__(self) -> int:
        return len(self.paths)

    def _classes(self, mask: np.ndarray, path: Path) -> Tensor:
        if self.mask_values == "nonzero":
            return torch.from_numpy((mask != 0).astype(np.uint8))
        ignored = np.isin(mask, self.ignore_values)
        wrong = ((mask < 0) | (mask >= self.num_classes)) & ~ignored
        if wrong.any():
            raise DataError(
                f"{path} has the value {mask[wrong][0]}, but there are {self.num_classes} classes (0 to "
                f"{self.num_classes - 1}); add it to data.class_names or data.ignore_values. ImageMaskFolder reads "
                "instance ids and 0/255 masks with data.mask_values nonzero, and greys by class with data.mask_colors"
            )
        return torch.from_numpy(np.where(ignored, IGNORE, mask).astype(np.uint8))

    def _instances(self, mask: np.ndarray, classes: Tensor) -> Tensor:
        if self.mask_values == "nonzero":
            values, numbers = np.unique(mask, return_inverse=True)
            if np.count_nonzero(values) > 1:
                # Renumbered, because ids may be large, and later steps allocate memory per number.
                return torch.from_numpy(np.where(mask == 0, 0, numbers.reshape(mask.shape) + 1).astype(np.int32))
        return torch.from_numpy(connected_components(classes.numpy()))

    def _read_mask(self, path: Path) -> Image.Image:
        """Read a mask, upright unless ``exif`` is "ignore"."""
        if path.suffix.lower() not in EXTENSIONS:  # not an image
            return self.read_mask(path)
        header = read_header(path, self.reader.max_pixels)
        mask = self.read_mask(path)
        return stored(mask, header.orientation) if self.exif == "ignore" else mask

    def stated_sizes(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        """Yield the file of each image with height and width of its mask.

        An unreadable mask has no size, and one with an EXIF orientation of its own does not depend on it.
        """
        for path, mask in zip(self.paths, self.masks, strict=True):
            orientation, size = read_orientation(mask)
            yield path, size if orientation == 1 else (0, 0)

    def read_classes(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read class ids uint8 (H, W), and the values of the file that they stand for, of a mask alone."""
        values = np.array(shrink(self._read_mask(self.masks[index]), self.max_side, Image.Resampling.NEAREST))
        return self._classes(values, self.masks[index]).numpy(), values

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, mask_path = self.paths[index], self.masks[index]
        mask = self._read_mask(mask_path)
        rotate = partial(rotates, size=(mask.height, mask.width), exif=self.exif)
        image, (height, width) = self.reader.read_tensor(path, rotate, self.max_side)
        if mask.size != (width, height):
            raise DataError(
                f"{path} has {width} x {height} pixels, but its mask {mask_path} has {mask.width} x "
                f"{mask.height}; they must have the same size"
            )
        values = np.array(shrink(mask, self.max_side, Image.Resampling.NEAREST))
        classes = self._classes(values, mask_path)
        sample = {"image": image, "mask": classes, "path": str(path), "size": torch.tensor([height, width])}
        return sample | {"instances": self._instances(values, classes)} if self.instances else sample
