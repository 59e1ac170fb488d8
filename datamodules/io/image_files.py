"""List and open image files for all readers; their size, frames, bit depth and orientation are examined here alone."""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, NamedTuple

from PIL import ExifTags, Image, ImageSequence
from PIL.ImageFile import ImageFile

from darkroom.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MAX_PIXELS = 178_956_970  # where Pillow refuses a file as a decompression bomb
SIDES_SWAPPED = 5  # EXIF orientations from this on turn by 90 degrees

ImageSource = Path | IO[bytes]

_NO_DATA = ("__MACOSX", "@eaDir")  # folders of copies that macOS and Synology add

_UPRIGHT = {  # by orientation: what makes stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INVERSE = {6: 8, 8: 6}  # the others are their own inverse


def list_images(folder: Path, subfolders: bool = False, extensions: Collection[str] = EXTENSIONS) -> list[Path]:
    """List the images in a folder, sorted, without hidden files such as macOS's ``._photo.jpg``.

    Args:
        folder: folder of the images.
        subfolders: list those in folders inside it too, except hidden ones.
        extensions: of the files, in lower case.

    Raises:
        DataError: the folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(f"folder {folder} does not exist; it must hold the images{describe_neighbours(folder)}")
    images: list[Path] = []
    for path in folder.iterdir():
        if _is_no_data(path):
            continue
        if path.suffix.lower() in extensions:
            images.append(path)
        elif subfolders and path.is_dir():
            images += list_images(path, subfolders=True, extensions=extensions)
    return sorted(images)


def describe_neighbours(folder: Path) -> str:
    """Return the folders beside a missing one, for its message; empty if there are none."""
    try:
        names = sorted(path.name for path in folder.parent.iterdir() if path.is_dir() and not _is_no_data(path))
    except OSError:
        return ""
    return f". {folder.parent} has the folders {', '.join(names[:8])}" if names else ""


def list_folders(folder: Path) -> list[Path]:
    """List the folders directly in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_no_data(path))


def _is_no_data(path: Path) -> bool:
    return path.name.startswith(".") or path.name in _NO_DATA


class Header(NamedTuple):
    """Properties of an image file that Pillow reads without the pixels.

    Attributes:
        orientation: that of EXIF, 1 (upright) to 8.
        size: stored height and width.
        deep: True if the pixels have more than 8 bits per channel.
        encoding: Pillow's name of the format, such as PNG.
    """

    orientation: int
    size: tuple[int, int]
    deep: bool
    encoding: str


class Pixels(NamedTuple):
    """Pixels of an image file, upright or as stored, with its header."""

    image: Image.Image
    header: Header


@contextmanager
def _opened(file: ImageSource) -> Iterator[ImageFile]:
    """Open a file without Pillow's own limit of pixels, which has no option and warns at half of it."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        # Of an open file Pillow does not map the memory, which scrambles the pixels of rotated TIFF (Pillow 13.0).
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as opened, Image.open(opened) as image:
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: ImageFile) -> int:
    """Return the EXIF orientation, 1 if it is missing or damaged."""
    try:
        # The method of the base class; that of PNG also reads the pixels.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises SyntaxError, struct.error and others; the pixels may be whole
        return 1
    return orientation if orientation in range(1, 9) else 1


def _header(image: ImageFile) -> Header:
    """Return the header of an image whose pixels are not loaded yet."""
    orientation = _orientation(image)
    size = image.height, image.width
    if image.format == "TIFF" and orientation >= SIDES_SWAPPED:  # Pillow states the size after rotation
        size = size[::-1]
    # Of colours with 16 bits Pillow returns the upper 8; the decoder's name of the stored format tells.
    decoders = [tile.args if isinstance(tile.args, str) else str((tile.args or [""])[0]) for tile in image.tile]
    deep = image.mode.startswith(("I", "F")) or any(";16" in decoder for decoder in decoders)
    return Header(orientation, size, deep, image.format or "")


def _check_frames(image: Image.Image, file: ImageSource) -> None:
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
        raise DataError(f"{file} has {count} frames; save each frame as a file of its own, such as NAME_000.png")


def _check_pixels(header: Header, file: ImageSource, max_pixels: int | None) -> None:
    height, width = header.size
    if max_pixels is not None and height * width > max_pixels:
        raise DataError(
            f"{file} has {width} x {height} = {height * width} pixels, more than data.max_pixels {max_pixels}; raise it if "
            "you trust the file, or split the image into tiles"
        )


@contextmanager
def _data_errors(file: ImageSource) -> Iterator[None]:
    """Raise all errors of Pillow as a DataError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{file} does not exist; add it") from None
    except (MemoryError, DataError):
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and its own errors, by format
        raise DataError(f"{file} cannot be read as an image ({error}); replace or remove it") from error


def read_header(file: ImageSource, max_pixels: int | None = None) -> Header:
    """Read the header of an image.

    Raises:
        DataError: the file cannot be read, or has more than ``max_pixels`` pixels.
    """
    with _data_errors(file), _opened(file) as image:
        header = _header(image)
        _check_pixels(header, file, max_pixels)
        return header


def read_pixels(file: ImageSource, rotate: bool = True, max_pixels: int | None = None) -> Pixels:
    """Read the pixels of an image in the mode of the file.

    Args:
        file: path, or content, of the image.
        rotate: rotate the image by its EXIF data; False: return the pixels as stored.
        max_pixels: limit of height times width; None: no limit.

    Raises:
        DataError: the file cannot be read, has several frames, or more than ``max_pixels`` pixels.
    """
    with _data_errors(file), _opened(file) as image:
        header = _header(image)
        _check_pixels(header, file, max_pixels)
        _check_frames(image, file)
        image.load()
        if image.format == "TIFF":  # Pillow has rotated it
            return Pixels(image if rotate else stored(image, header.orientation), header)
        return Pixels(_transpose(image, header.orientation) if rotate else image, header)


def _transpose(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def stored(image: Image.Image, orientation: int) -> Image.Image:
    """Undo the rotation of an image by its EXIF orientation."""
    return _transpose(image, _INVERSE.get(orientation, orientation))


def read_orientation(path: Path) -> tuple[int, tuple[int, int]]:
    """Read the EXIF orientation of an image, 1 (upright) to 8, and its stored height and width; 1 if unreadable."""
    try:
        header = read_header(path)
        return header.orientation, header.size
    except DataError:  # reading the pixels raises it again
        return 1, (0, 0)
