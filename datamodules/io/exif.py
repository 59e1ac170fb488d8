"""Rotation of photos that have an annotation: image and annotation must agree on what is up."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from darkroom.datamodules.io.image_files import SIDES_SWAPPED, Header, read_orientation

# What to do with the orientation that a camera wrote beside the pixels; None decides by the size of the annotation.
Exif = Literal["transpose", "ignore"]
SAMPLE = 64  # headers that are read for the warning


def rotates(header: Header, size: tuple[int, int], exif: Exif | None) -> bool:
    """Return True if an image must be rotated by its EXIF data to match its annotation.

    Args:
        header: header of the image.
        size: height and width that the annotation, or the mask, states.
        exif: the rule; None: the one that gives ``size``, and rotation where both do.
    """
    if exif is not None:
        return exif == "transpose"
    return not (header.orientation >= SIDES_SWAPPED and header.size == size and size[0] != size[1])


def warn_of_ambiguous_rotation(images: Iterable[tuple[Path, tuple[int, int]]], split: str) -> None:
    """Warn once if the size of an annotation does not tell whether it belongs to the rotated photo.

    Args:
        images: file of each image with the height and width that its annotation states; the first 64 are examined.
        split: name of the split.
    """
    for _, (path, size) in zip(range(SAMPLE), images, strict=False):  # as many as there are
        orientation, stored = read_orientation(path)
        turned = stored[::-1] if orientation >= SIDES_SWAPPED else stored
        if orientation != 1 and stored == turned == size:
            rank_zero_warn(
                f"{path} of the {split} split has EXIF orientation {orientation}, and its size does not tell whether its "
                "annotation belongs to the rotated photo; it is rotated. Set data.exif to transpose if this is right, or "
                "to ignore if the annotation was made on the stored pixels"
            )
            return
