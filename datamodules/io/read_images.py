"""Read images and masks of any common format from files as uint8 tensors; errors name the file."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence
from scipy.ndimage import label
from torch import Tensor
from torch.utils.data import Dataset

from darkroom.datamodules.io.exif import Exif, read_orientation, rotates
from darkroom.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
IGNORE = 255


def list_images(folder: Path) -> list[Path]:
    """List the images directly in a folder, sorted by name, without hidden files such as macOS's ``._photo.jpg``."""
    if not folder.is_dir():
        raise DataError(f"folder {folder} does not exist; it must hold the images")
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
    )


def _open(path: Path | IO[bytes], rotate: bool = False) -> Image.Image:
    """Read an image's pixels; ``rotate`` it by its EXIF data."""
    try:
        image = Image.open(path)
        _check_frames(image, path)
        image.load()
        return ImageOps.exif_transpose(image) if rotate else image
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; add it") from None
    except (MemoryError, DataError):
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and its own errors, by format
        raise DataError(f"{path} cannot be read as an image ({error}); replace or remove it") from error


def _check_frames(image: Image.Image, path: Path | IO[bytes]) -> None:
    """Raise a DataError for an animation or a file of several pages, of which only the first would be read."""
    if image.format == "MPO":  # a photo, and what its camera adds to it
        return
    try:
        image.seek(1)
    except EOFError:
        return
    sizes = Counter(frame.size for frame in ImageSequence.Iterator(image))
    image.seek(0)
    if (count := sizes[image.size]) > 1:  # smaller versions of the first page are not samples
        raise DataError(f"{path} has {count} frames; save each frame as a file of its own, such as NAME_000.png")


def shrink(image: Image.Image, max_side: int | None, resample: Image.Resampling) -> Image.Image:
    """Scale an image down so that its longer side is at most ``max_side``; smaller ones are unchanged."""
    scale = (max_side or max(image.size)) / max(image.size)
    return (
        image
        if scale >= 1
        else image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)
    )


def read_image(path: Path | IO[bytes], channels: int = 3, rotate: bool = True) -> Image.Image:
    """Read an image as RGB (3 channels) or grey (1), 8 bits.

    Grey, palette, 16-bit and alpha images are converted: 16 bits are divided by 257 (not clipped), transparent pixels
    become black, photos are rotated by their EXIF data unless ``rotate`` is False.

    Raises:
        DataError: the file cannot be read, or has floating-point pixels.
    """
    image = _open(path, rotate)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    elif image.mode == "F":
        raise DataError(f"{path} has floating-point pixels of unknown range; save it with 8 or 16 bits")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB" if channels == 3 else "L")


def read_mask(path: Path) -> Image.Image:
    """Read an index mask, one integer channel; of a palette image, the indices are read.

    Raises:
        DataError: the file cannot be read, is lossy, or has colours.
    """
    mask = _open(path)
    if mask.format in ("JPEG", "WEBP"):
        raise DataError(f"{path} is a lossy {mask.format}, whose pixel values are inexact; save masks as PNG")
    if mask.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
        raise DataError(
            f"{path} is a colour image ({mask.mode}); a mask must have one channel of class ids (a grey or palette PNG)"
        )
    return mask


def to_tensor(image: Image.Image, max_side: int | None = None) -> Tensor:
    """Convert an image to uint8 (C, H, W), scaled down to ``max_side``."""
    array = np.array(shrink(image, max_side, Image.Resampling.BILINEAR))
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1).contiguous()


def connected_components(classes: np.ndarray) -> np.ndarray:
    """Number the connected components of all classes except background and ignored, from 1: int32 (H, W).

    Pixels of a class that touch at a corner are connected. ``classes``: uint8 (H, W).
    """
    pieces = np.zeros(classes.shape, np.int32)
    for value in np.setdiff1d(classes, (0, IGNORE)):
        found, _ = label(classes == value, np.ones((3, 3)))
        pieces += np.where(found, found + pieces.max(), 0).astype(np.int32)
    return pieces


class PhotoFolder(Dataset[dict[str, Any]]):
    """Images of a folder: ``{"image": uint8 (C, H, W), "path": str, "size": (height, width) in the file}``."""

    def __init__(self, folder: Path, channels: int = 3, max_side: int | None = None) -> None:
        self.paths, self.channels, self.max_side = list_images(folder), channels, max_side
        if not self.paths:
            raise DataError(f"{folder} has no images ({', '.join(EXTENSIONS)}); add some, or give another folder")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = read_image(self.paths[index], self.channels)
        size = torch.tensor([image.height, image.width])
        return {"image": to_tensor(image, self.max_side), "path": str(self.paths[index]), "size": size}


class ImageMaskPairs(Dataset[dict[str, Any]]):
    """Images and their masks: ``{"image": uint8 (C, H, W), "mask": uint8 (H, W), "path": str, "size": (height, width)}``.

    With ``instances`` also ``"instances"``, int32 (H, W): numbers from 1, 0 for none.

    Args:
        pairs: files of image and mask.
        num_classes: upper bound of mask values, exclusive, after ``mask_values`` and ``ignore_values`` are applied.
        mask_values: "index": a pixel's value is its class; "nonzero": 0 is background, everything else class 1 (instance
            ids, or 0 and 255).
        ignore_values: values that loss and metrics ignore; they become 255.
        channels, max_side: see ``read_image``.
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
        channels: int = 3,
        max_side: int | None = None,
        instances: bool = False,
        read_mask: Callable[[Path], Image.Image] = read_mask,
        exif: Exif | None = None,
    ) -> None:
        self.paths, self.masks = [image for image, _ in pairs], [mask for _, mask in pairs]
        self.num_classes, self.mask_values = num_classes, mask_values
        self.ignore_values, self.channels, self.max_side = ignore_values, channels, max_side
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
                f"{self.num_classes - 1}); add it to data.class_names or data.ignore_values, or set data.mask_values to "
                "nonzero for instance ids and 0/255 masks"
            )
        return torch.from_numpy(np.where(ignored, IGNORE, mask).astype(np.uint8))

    def _instances(self, mask: np.ndarray, classes: Tensor) -> Tensor:
        if self.mask_values == "nonzero":
            values, numbers = np.unique(mask, return_inverse=True)
            if np.count_nonzero(values) > 1:
                # Renumbered, because ids may be large, and later steps allocate memory per number.
                return torch.from_numpy(np.where(mask == 0, 0, numbers.reshape(mask.shape) + 1).astype(np.int32))
        return torch.from_numpy(connected_components(classes.numpy()))

    def stated_sizes(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        """Yield the file of each image with height and width of its mask; an unreadable mask has none."""
        for path, mask in zip(self.paths, self.masks, strict=True):
            yield path, read_orientation(mask)[1]

    def read_classes(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read class ids uint8 (H, W), and the values of the file that they stand for, of a mask alone."""
        values = np.array(shrink(self.read_mask(self.masks[index]), self.max_side, Image.Resampling.NEAREST))
        return self._classes(values, self.masks[index]).numpy(), values

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, mask_path = self.paths[index], self.masks[index]
        mask = self.read_mask(mask_path)
        image = read_image(path, self.channels, rotates(path, (mask.height, mask.width), self.exif))
        if mask.size != image.size:
            raise DataError(
                f"{path} has {image.width} x {image.height} pixels, but its mask {mask_path} has {mask.width} x "
                f"{mask.height}; they must have the same size"
            )
        values = np.array(shrink(mask, self.max_side, Image.Resampling.NEAREST))
        classes = self._classes(values, mask_path)
        size = torch.tensor([image.height, image.width])
        sample = {"image": to_tensor(image, self.max_side), "mask": classes, "path": str(path), "size": size}
        return sample | {"instances": self._instances(values, classes)} if self.instances else sample
