"""Decoding by TorchCodec: the pixels, errors and sizes of Pillow, for every kind of file."""

import io
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from darkroom.datamodules.io import image_files
from darkroom.datamodules.io.exif import rotates
from darkroom.datamodules.io.image_files import fast_decoders, read_header, read_pixels_or_tensor
from darkroom.datamodules.io.read_images import ImageReader, to_tensor
from darkroom.errors import DataError
from tests.datamodules.io.test_image_formats import FORMATS, MODES, image_of

RNG = np.random.default_rng(0)
PLAIN = ("jpg", "png", "webp")


def photo(size: tuple[int, int]) -> Image.Image:
    """Return a colour image with smooth and noisy areas."""
    smooth = Image.fromarray(RNG.integers(0, 256, (5, 7, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = RNG.normal(0, 20, (*size[::-1], 3)) * (np.arange(size[0]) > size[0] // 2)[:, None]
    return Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))


def assert_equals_pillow(path: Path, reader: ImageReader, rotate: bool = True, max_side: int | None = None) -> bool:
    """Compare pixels and size, or the error; return True if TorchCodec decoded the file."""
    try:
        image = reader(path, rotate)
    except DataError as error:
        with pytest.raises(DataError, match=re.escape(str(error))):
            reader.read_tensor(path, rotate, max_side)
        return False
    tensor, size = reader.read_tensor(path, rotate, max_side)
    assert size == (image.height, image.width)
    assert tensor.is_contiguous()
    assert torch.equal(tensor, to_tensor(image, max_side))
    return isinstance(read_pixels_or_tensor(path, reader.channels, rotate), Tensor)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_mode_equals_pillow(tmp_path: Path, kind: str, channels: int) -> None:
    fast = set()
    for mode in MODES:
        path, image = tmp_path / f"{mode.replace(';', '')}.{kind}", image_of(mode)
        try:
            assert image is not None
            image.save(path)
        except (AssertionError, OSError, ValueError, KeyError):  # not a mode of this format
            continue
        if assert_equals_pillow(path, ImageReader(channels)):
            fast.add(mode)
    expected = {"jpg": {"L", "RGB", "RGBX", "1"}, "png": {"L", "RGB"}, "webp": {"RGB"}}.get(kind, set())
    grey = {"jpg": {"L", "1"}, "png": {"L"}}.get(kind, set())
    assert fast >= (expected if channels == 3 else grey)
    # Pillow writes all modes as RGB to WebP; the alpha channel only where it is not opaque.
    assert kind == "webp" or not fast & {"CMYK", "RGBA", "LA", "PA", "I;16", "F"}


@pytest.mark.parametrize("size", [(1, 1), (37, 501), (501, 37), (16, 16), (33, 17)])
def test_odd_sizes_subsamplings_and_scans_equal_pillow(tmp_path: Path, size: tuple[int, int]) -> None:
    image, path = photo(size), tmp_path / "a.jpg"
    for options in (
        *({"subsampling": kind, "quality": quality} for kind in ("4:4:4", "4:2:2", "4:2:0") for quality in (30, 95)),
        {"progressive": True},
        {"progressive": True, "subsampling": 1},
        {"restart_marker_blocks": 2},
        {"keep_rgb": True},
    ):
        image.save(path, **options)
        assert assert_equals_pillow(path, ImageReader())
    for kind, options in (
        ("webp", {"quality": 70}),
        ("webp", {"lossless": True}),
        ("png", {}),
        ("png", {"optimize": True}),
    ):
        image.save(path.with_suffix(f".{kind}"), **options)
        assert assert_equals_pillow(path.with_suffix(f".{kind}"), ImageReader(), max_side=20)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", PLAIN)
def test_rotation_by_exif_equals_pillow(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind}"
    photo((30, 20)).save(path, exif=exif)
    for rotate in (True, False):
        for max_side in (None, 11):
            fast = assert_equals_pillow(path, ImageReader(), rotate, max_side)
            assert fast == (rotate or orientation == 1)


@pytest.mark.parametrize("orientation", [0, 9, 600])
@pytest.mark.parametrize("kind", PLAIN)
def test_invalid_orientation_equals_pillow(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for content in (exif.tobytes(), exif.tobytes()[:-6], b"Exif\0\0MM"):
        photo((30, 20)).save(tmp_path / f"a.{kind}", exif=content)
        assert_equals_pillow(tmp_path / f"a.{kind}", ImageReader())


def test_orientation_in_xmp_alone_equals_pillow(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    photo((30, 20)).save(tmp_path / "a.jpg", xmp=xmp)
    assert read_header(tmp_path / "a.jpg").orientation == 6
    assert not assert_equals_pillow(tmp_path / "a.jpg", ImageReader())


def damaged(content: bytes) -> Iterator[bytes]:
    for part in (1, 10, 50, 90, 99):
        yield content[: len(content) * part // 100]
    for place in (len(content) // 3, len(content) // 2):
        yield content[:place] + bytes(40) + content[place + 40 :]


@pytest.mark.parametrize("kind", PLAIN)
def test_damaged_files_have_the_errors_of_pillow(tmp_path: Path, kind: str) -> None:
    path, buffer = tmp_path / f"a.{kind}", io.BytesIO()
    photo((60, 50)).save(buffer, format={"jpg": "jpeg"}.get(kind, kind))
    for content in damaged(buffer.getvalue()):
        path.write_bytes(content)
        assert_equals_pillow(path, ImageReader())
    path.unlink()
    assert not assert_equals_pillow(path, ImageReader())


def test_transparent_animated_and_deep_files_are_left_to_pillow(tmp_path: Path) -> None:
    image = photo((20, 10))
    image.save(tmp_path / "transparent.png", transparency=(0, 0, 0))
    image.quantize(16).save(tmp_path / "palette.png", transparency=3)
    image.save(tmp_path / "animated.webp", save_all=True, append_images=[photo((20, 10))])
    image.save(tmp_path / "animated.png", save_all=True, append_images=[photo((20, 10))])
    for path in sorted(tmp_path.iterdir()):
        assert not assert_equals_pillow(path, ImageReader()), path.name
    image.save(tmp_path / "large.png")
    assert not assert_equals_pillow(tmp_path / "large.png", ImageReader(max_pixels=199))


def test_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = tmp_path / "a.jpg", []
    photo((20, 10)).save(path)
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **kwargs: opened.append(self) or real(self, *args, **kwargs))
    tensor, size = ImageReader().read_tensor(path, partial(rotates, size=(10, 20), exif=None))
    assert (tensor.shape, size, opened) == ((3, 10, 20), (10, 20), [path])


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_without_torchcodec_pillow_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type) -> None:
    """A build for another version of torch raises one of the other errors."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise error("libtorch")

    path = tmp_path / "a.jpg"
    photo((20, 10)).save(path)
    expected = ImageReader().read_tensor(path)[0]
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None if error is ImportError else Broken())
    fast_decoders.cache_clear()
    try:
        assert not isinstance(read_pixels_or_tensor(path, 3), Tensor)
        assert torch.equal(ImageReader().read_tensor(path)[0], expected)
    finally:
        monkeypatch.undo()
        image_files.fast_decoders.cache_clear()


def test_header_names_plain_mode(tmp_path: Path) -> None:
    photo((4, 4)).save(tmp_path / "a.jpg")
    photo((4, 4)).convert("P").save(tmp_path / "p.png")
    assert [read_header(tmp_path / name).plain for name in ("a.jpg", "p.png")] == ["RGB", ""]
