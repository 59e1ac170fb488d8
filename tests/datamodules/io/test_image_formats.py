"""Every format x mode x orientation of images: the right uint8 tensor, or one error that names the file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.datamodules.io.exif import read_orientation
from darkroom.datamodules.io.image_size import image_size
from darkroom.datamodules.io.pixel_scale import PixelScale
from darkroom.datamodules.io.read_images import ImageReader
from darkroom.errors import DataError

FORMATS = ("png", "jpg", "tif", "webp", "bmp", "gif", "ppm")
MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I;16",
    "I;16B",
    "I",
    "F",
)
DEEP = ("I;16", "I;16B", "I", "F")
GREY = np.zeros((24, 32), np.uint8)
GREY[:12, :16] = 255
GREY[12:, 16:] = 128


def image_of(mode: str) -> Image.Image | None:
    """The grey image in a mode; None: Pillow has no conversion."""
    if mode == "1":
        return Image.fromarray(GREY >= 128)
    if mode == "F":
        return Image.fromarray(GREY.astype(np.float32) / 255)
    if mode in ("I;16", "I;16B"):
        dtype = "<u2" if mode == "I;16" else ">u2"
        return Image.fromarray((GREY.astype(np.uint16) * 257).astype(dtype))
    if mode == "I":
        return Image.fromarray(GREY.astype(np.int32))
    try:
        source = Image.fromarray(GREY)
        return (
            source.convert("RGBA" if mode == "RGBa" else "RGB").convert(mode) if len(mode) > 3 else source.convert(mode)
        )
    except ValueError:
        return None


def saved(path: Path, mode: str, orientation: int = 1) -> bool:
    """Write the grey image; False: the format has no such mode."""
    image = image_of(mode)
    if image is None or (mode in DEEP and path.suffix in (".webp", ".gif")):  # which Pillow clips to 8 bits
        return False
    options = {"quality": 95} if path.suffix in (".jpg", ".webp") else {}
    exif = Image.Exif()
    exif[274] = orientation
    try:
        image.save(path, **options, **({"exif": exif} if orientation > 1 else {}))
    except (OSError, KeyError, ValueError):
        return False
    return True


WRITTEN = {"png": 8, "jpg": 6, "tif": 11, "webp": 8, "bmp": 5, "gif": 6, "ppm": 5}  # modes that Pillow writes


@pytest.mark.parametrize("ending", FORMATS)
def test_every_mode_becomes_the_right_bytes(tmp_path: Path, ending: str) -> None:
    path, modes = tmp_path / f"a.{ending}", []
    for mode in MODES:
        if not saved(path, mode):
            continue
        modes.append(mode)
        expected = np.where(GREY >= 128, 255, 0) if mode == "1" else GREY
        scale = PixelScale(1.0 if mode == "F" else None)
        scale.decide([path], "train")
        for channels in (3, 1):
            image = np.asarray(ImageReader(channels, scale)(path))
            assert image.dtype == np.uint8
            assert image.shape == (24, 32, 3)[: 2 + (channels == 3)]
            difference = np.abs(image.reshape(24, 32, -1).astype(int) - expected[..., None])
            assert difference.max() <= (60 if ending in ("jpg", "webp") else 1), mode
            assert difference.mean() < 4, mode
    assert len(modes) >= WRITTEN[ending], modes


@pytest.mark.parametrize("channels", [1, 3])
def test_lab_tiff_is_converted(tmp_path: Path, channels: int) -> None:
    Image.merge("LAB", [Image.fromarray(GREY), *(Image.new("L", (32, 24), 128),) * 2]).save(tmp_path / "a.tif")
    image = np.asarray(ImageReader(channels)(tmp_path / "a.tif"))
    assert (image.min(), image.max()) == (0, 255)


ORIENTED = [(ending, mode) for ending in ("png", "jpg", "tif", "webp") for mode in ("1", "L", "RGB")]
ORIENTED += [(ending, "I;16") for ending in ("png", "tif")]


@pytest.mark.parametrize(("ending", "mode"), ORIENTED)
def test_exif_orientation_is_applied_once(tmp_path: Path, ending: str, mode: str) -> None:
    upright = {}
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.{ending}"
        assert saved(path, mode, orientation)
        scale = PixelScale()
        scale.decide([path], "train")
        read = ImageReader(1, scale)
        upright[orientation] = np.asarray(read(path)) > 64
        assert upright[orientation].shape == image_size(path) == ((32, 24) if orientation > 4 else (24, 32))
        assert read_orientation(path) == (orientation, (24, 32))
        assert np.array_equal(np.asarray(read(path, rotate=False)) > 64, GREY > 64)
    flipped = {2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: np.transpose}
    flipped |= {6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(np.transpose(x), 2), 8: np.rot90}
    for orientation, turn in flipped.items():
        assert np.array_equal(upright[orientation], turn(upright[1])), orientation


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_rotated_tiff_keeps_its_pixels(tmp_path: Path, compression: str | None) -> None:
    """Pillow 13.0 scrambles uncompressed grey TIFF with an orientation of 5 and more, which it maps into memory."""
    values = np.arange(24, dtype=np.uint8).reshape(4, 6)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(values).save(tmp_path / "a.tif", exif=exif, compression=compression)
    assert np.array_equal(np.asarray(ImageReader(1)(tmp_path / "a.tif")), np.rot90(values, -1))


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("damaged", [b"MM\x00*\xff\xff\xff\xffgarbage", b"garbage garbage"])
def test_damaged_exif_leaves_the_image_readable(tmp_path: Path, ending: str, damaged: bytes) -> None:
    path = tmp_path / f"a.{ending}"
    Image.new("L", (20, 10), 200).save(path, exif=b"Exif\x00\x00" + damaged)
    assert ImageReader(1)(path).getpixel((3, 3)) == pytest.approx(200, abs=2)
    assert (read_orientation(path), image_size(path)) == ((1, (10, 20)), (10, 20))


def test_size_limit_names_the_option(tmp_path: Path) -> None:
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    assert ImageReader(max_pixels=200)(tmp_path / "a.png").size == (20, 10)
    with pytest.raises(DataError, match=r"a\.png has 20 x 10 = 200 pixels, more than data\.max_pixels 199; raise it"):
        ImageReader(max_pixels=199)(tmp_path / "a.png")


def test_limit_above_that_of_pillow_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    assert ImageReader(max_pixels=200)(tmp_path / "a.png").size == (20, 10)
    assert image_size(tmp_path / "a.png") == (10, 20)
    assert Image.MAX_IMAGE_PIXELS == 50  # that of the user's own code is unchanged
