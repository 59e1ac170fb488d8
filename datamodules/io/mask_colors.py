"""Read masks whose colours are classes, and the labelmap that CVAT exports beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from darkroom.datamodules.io.read_mask import read_lossless
from darkroom.errors import DataError, UsageError

Colors = dict[str, tuple[int, int, int]]


def read_labelmap(path: Path) -> Colors:
    """Read the colour of each class from a ``labelmap.txt`` with lines ``name:r,g,b::``, as CVAT exports it.

    Raises:
        DataError: the file is missing or a line is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        raise DataError(f"data.mask_colors: {path} must be a text file with a line name:r,g,b:: per class") from None
    colors: Colors = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        parts = rest.split(":")[0].split(",")
        if not name or len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
            raise DataError(
                f"{path}, line {number}: must be name:r,g,b::, such as cat:250,50,83::, got {line.strip()!r}"
            )
        if name in colors:
            raise DataError(f"{path}, line {number}: has the class {name} a second time; remove one")
        red, green, blue = (int(part) for part in parts)
        colors[name] = red, green, blue
    check_colors(colors, str(path))
    return colors


def check_colors(colors: Mapping[str, Sequence[int]], place: str) -> None:
    """Raise a UsageError unless every class has a colour of its own, three numbers from 0 to 255."""
    owners: dict[tuple[int, ...], str] = {}
    for name, color in colors.items():
        if len(color) != 3 or not all(0 <= value <= 255 for value in color):
            raise UsageError(f"{place}: the colour of {name} must be three numbers from 0 to 255, got {list(color)}")
        if (other := owners.setdefault(tuple(color), name)) != name:
            raise UsageError(
                f"{place}: {other} and {name} have the colour {list(color)}; every class must have its own"
            )


@dataclass(frozen=True)
class ColorMaskReader:
    """Reader of the class ids of a colour mask, uint8; palette and grey masks count as colours too.

    Args:
        ids: class id by colour.
    """

    ids: Mapping[tuple[int, int, int], int]

    def __call__(self, path: Path) -> Image.Image:
        """Read a mask.

        Raises:
            DataError: the file cannot be read, or has a colour without class.
        """
        mask, _ = read_lossless(path)
        if mask.mode not in ("1", "L", "P", "RGB"):
            raise DataError(f"{path} has pixels of the kind {mask.mode}, but data.mask_colors needs RGB with 8 bits")
        codes = _pack(np.asarray(mask.convert("RGB")))
        known = _pack(np.array(list(self.ids), np.uint8).reshape(-1, 3))
        order = known.argsort()
        place = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
        found = order[place]
        unknown = known[found] != codes
        if unknown.any():
            values, counts = np.unique(codes[unknown], return_counts=True)
            code = int(values[counts.argmax()])
            color = [code >> 16, code >> 8 & 255, code & 255]
            others = f", and {len(values) - 1} other unknown colours" if len(values) > 1 else ""
            raise DataError(
                f"{path} has {counts.max()} pixels of the colour {color}, which data.mask_colors lacks{others}; add it "
                "with its class, or save the mask without compression or smoothing"
            )
        return Image.fromarray(np.array(list(self.ids.values()), np.uint8)[found])


def _pack(colors: np.ndarray) -> np.ndarray:
    """Return one number per colour: uint8 (..., 3) -> int64 (...)."""
    return colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
