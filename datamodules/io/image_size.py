"""Read the size of an image without its pixels."""

from pathlib import Path

from darkroom.datamodules.io.exif import SIDES_SWAPPED, read_orientation
from darkroom.datamodules.io.read_images import read_image


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image after EXIF rotation; only the header is read, except of rotated photos.

    Raises:
        DataError: the file cannot be read.
    """
    orientation, stored = read_orientation(path)
    if all(stored) and orientation < SIDES_SWAPPED:
        return stored
    image = read_image(path)  # raises an error that names the file, if it is unreadable
    return image.height, image.width
