"""List and open image files for all readers; their size, frames, bit depth and orientation are examined here alone."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from PIL import ExifTags, Image, ImageSequence, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from torch import Tensor

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
_PLAIN_MODES = ("RGB", "L")


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
        plain: RGB or L, Pillow's mode, if the pixels have 8 bits, no transparency, and no rotation besides that of EXIF;
            else empty.
    """

    orientation: int
    size: tuple[int, int]
    deep: bool
    encoding: str
    plain: str


# If an image is rotated by its EXIF data, or the rule that tells it from the header.
Rotate = bool | Callable[[Header], bool]


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
    plain = image.mode in _PLAIN_MODES and all(decoder in ("", image.mode) for decoder in decoders)
    plain = plain and not image.has_transparency_data and _exif_states(image, orientation)
    return Header(orientation, size, deep, image.format or "", image.mode if plain else "")


def _exif_states(image: ImageFile, orientation: int) -> bool:
    """Return True if the EXIF data alone give this orientation, as TorchCodec reads it; Pillow reads XMP data too."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return exif.get(ExifTags.Base.Orientation, 1) == orientation
    except Exception:  # damaged, see ``_orientation``
        return False


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
    except UnidentifiedImageError as error:  # its message has the address of the open file
        raise DataError(f"{file} cannot be read as an image (its format is unknown); replace or remove it") from error
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


def read_pixels(file: ImageSource, rotate: Rotate = True, max_pixels: int | None = None) -> Pixels:
    """Read the pixels of an image in the mode of the file.

    Args:
        file: path, or content, of the image.
        rotate: rotate the image by its EXIF data; False: return the pixels as stored.
        max_pixels: limit of height times width; None: no limit.

    Raises:
        DataError: the file cannot be read, has several frames, or more than ``max_pixels`` pixels.
    """
    with _data_errors(file), _opened(file) as image:
        header = _checked_header(image, file, max_pixels)
        return _load(image, header, _rotates(rotate, header))


def read_pixels_or_tensor(
    file: ImageSource, channels: int, rotate: Rotate = True, max_pixels: int | None = None
) -> Pixels | Tensor:
    """Read an image as ``read_pixels`` does, or faster, where TorchCodec is installed and the image is plain, as a tensor.

    The tensor, uint8 (channels, H, W), has the same values as the pixels converted to RGB (3 channels) or grey (1). The
    file is read once.
    """
    decoders = fast_decoders()
    if not decoders:
        return read_pixels(file, rotate, max_pixels)
    with _data_errors(file):
        content = file.read_bytes() if isinstance(file, Path) else file.read()
        with _opened(BytesIO(content)) as image:
            header = _checked_header(image, file, max_pixels)
            turned = _rotates(rotate, header)
            plain = header.plain == "L" or (header.plain == "RGB" and channels == 3)
            if plain and header.encoding in decoders and (turned or header.orientation == 1):
                tensor = _try_decode(decoders[header.encoding], content, channels)
                if tensor is not None:
                    return tensor
            return _load(image, header, turned)


@cache
def fast_decoders() -> Mapping[str, Callable[..., Any]]:
    """Return TorchCodec's decoders by Pillow's names of the formats; none if it is not installed, or cannot be loaded."""
    try:
        from torchcodec.decoders import decode_jpeg, decode_png, decode_webp
    except (ImportError, OSError, RuntimeError):
        return {}
    return {"JPEG": decode_jpeg, "PNG": decode_png, "WEBP": decode_webp}


def _try_decode(decode: Callable[..., Any], content: bytes, channels: int) -> Tensor | None:
    """Decode a plain image to uint8 (channels, H, W); None if it is damaged: the error of Pillow names the fault."""
    try:
        # A bytearray, because torch warns of a buffer that cannot be written.
        return decode(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode="RGB" if channels == 3 else "GRAY")
    except (RuntimeError, ValueError):
        return None


def _rotates(rotate: Rotate, header: Header) -> bool:
    return rotate if isinstance(rotate, bool) else rotate(header)


def _checked_header(image: ImageFile, file: ImageSource, max_pixels: int | None) -> Header:
    """Return the header of an image of one frame with at most ``max_pixels`` pixels."""
    header = _header(image)
    _check_pixels(header, file, max_pixels)
    _check_frames(image, file)
    return header


def _load(image: ImageFile, header: Header, rotate: bool) -> Pixels:
    """Return the pixels of an image, upright or as stored."""
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
