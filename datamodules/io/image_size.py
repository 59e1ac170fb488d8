"""Read the size of an image without its pixels."""

from pathlib import Path

from darkroom.datamodules.io.image_files import SIDES_SWAPPED, read_header


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image after EXIF rotation; only the header is read.

    Raises:
        DataError: the file cannot be read.
    """
    header = read_header(path)
    height, width = header.size
    return (width, height) if header.orientation >= SIDES_SWAPPED else (height, width)
