"""Read masks whose pixels are class ids or instance ids; what has no single meaning is refused with the remedy."""

from pathlib import Path

import numpy as np
from PIL import Image

from darkroom.datamodules.io.image_files import read_pixels
from darkroom.errors import DataError

LOSSY = ("JPEG", "MPO", "WEBP")
REMEDY = (
    "save class ids as a grey or palette PNG, or set data.mask_colors of ImageMaskFolder to the colour of each class"
)


def read_mask(path: Path) -> Image.Image:
    """Read an index mask, upright: one channel of whole numbers.

    Palette images are read as their indices, except GIF, whose encoders renumber them: there the greys are the values, and
    black and white alone are 0 and 1. Three equal channels, an opaque alpha channel and floating-point numbers without a
    fraction are read as the values that they stand for.

    Raises:
        DataError: the file cannot be read, is lossy, or has no single meaning, such as colours.
    """
    mask, encoding = read_lossless(path)
    if mask.mode == "F":
        return _whole_numbers(mask, path)
    if mask.mode == "RGB":
        return _equal_channels(mask, path)
    if mask.mode == "P":
        mask = _palette_values(mask, path, encoding)
    if mask.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
        raise DataError(f"{path} is a colour image ({mask.mode}), but class ids need one channel; {REMEDY}")
    if encoding == "GIF" and mask.getextrema()[1] == 255:
        values = np.asarray(mask)
        return Image.fromarray((values == 255).astype(np.uint8)) if np.isin(values, (0, 255)).all() else mask
    return mask


def read_lossless(path: Path) -> tuple[Image.Image, str]:
    """Read the pixels of a mask, upright and without an opaque alpha channel, and the name of the file's format.

    Raises:
        DataError: the file cannot be read, is lossy, or has transparent pixels or colours of 16 bits.
    """
    mask, header = read_pixels(path)
    if header.encoding in LOSSY:
        raise DataError(f"{path} is a lossy {header.encoding}, whose pixel values are inexact; save masks as PNG")
    if header.deep and not mask.mode.startswith(("I", "F")):
        raise DataError(f"{path} has channels of 16 bits, which are read with their upper 8 alone; {REMEDY}")
    if mask.mode in ("LA", "RGBA"):
        if mask.getchannel("A").getextrema()[0] != 255:
            raise DataError(f"{path} has transparent pixels, which have no class; save the mask without alpha channel")
        mask = mask.convert(mask.mode[:-1])
    return mask, header.encoding


def _whole_numbers(mask: Image.Image, path: Path) -> Image.Image:
    values = np.asarray(mask)
    if not (np.isfinite(values) & (values == np.rint(values)) & (np.abs(values) < 2**24)).all():
        raise DataError(f"{path} has floating-point numbers with a fraction; a mask must have whole numbers: {REMEDY}")
    return Image.fromarray(values.astype(np.int32))


def _equal_channels(mask: Image.Image, path: Path) -> Image.Image:
    colors = np.asarray(mask)
    differ = (colors != colors[..., :1]).any(-1)
    if differ.any():
        red, green, blue = colors[differ][0]
        raise DataError(f"{path} is a colour image, with the colour [{red}, {green}, {blue}]; {REMEDY}")
    return mask.getchannel(0)


def _palette_values(mask: Image.Image, path: Path, encoding: str) -> Image.Image:
    """Return the greys of a GIF, or a mask whose palette does not contradict its indices.

    Raises:
        DataError: greys get darker with the index, or a GIF has colours.
    """
    indices = np.unique(np.asarray(mask))
    entries = Image.fromarray(indices[None])
    entries.putpalette(mask.getpalette() or [])  # which makes it a palette image
    palette = np.asarray(entries.convert("RGB"))[0]
    grey = (palette == palette[:, :1]).all()
    if encoding == "GIF":
        if not grey:
            raise DataError(f"{path} is a GIF with colours, whose indices depend on the encoder; {REMEDY}")
        return mask.convert("L")
    if grey and (np.diff(palette[:, 0].astype(int)) < 0).any():
        raise DataError(
            f"{path} has a palette of greys in another order than its indices, so either may be the class ids; {REMEDY}"
        )
    return mask
