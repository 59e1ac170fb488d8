"""Masks as tools write them: the values that they mean, or one error with the remedy."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.datamodules.io.read_mask import read_mask
from darkroom.errors import DataError

VALUES = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
LOSSLESS = ("png", "tif", "bmp", "gif")


def palette_image(indices: np.ndarray, colors: list[list[int]]) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette(np.array(colors, np.uint8).tobytes())
    return image


MEANT = {  # kinds of masks that mean VALUES
    "L": Image.fromarray(VALUES),
    "P": palette_image(VALUES, [[0, 0, 0], [128, 0, 0], [0, 128, 0]]),
    "P of greys": palette_image(VALUES, [[0] * 3, [100] * 3, [200] * 3]),
    "P without colours": palette_image(VALUES, [[0] * 3] * 3),
    "RGB": Image.fromarray(np.dstack([VALUES] * 3)),
    "RGBA": Image.fromarray(np.dstack([*([VALUES] * 3), np.full((2, 3), 255, np.uint8)])),
    "LA": Image.merge("LA", [Image.fromarray(VALUES), Image.new("L", (3, 2), 255)]),
    "I;16": Image.fromarray(VALUES.astype(np.uint16)),
    "I": Image.fromarray(VALUES.astype(np.int32)),
    "F": Image.fromarray(VALUES.astype(np.float32)),
}
CASES = [(ending, kind) for kind in ("L", "RGB") for ending in LOSSLESS]
CASES += [(ending, kind) for kind in ("P", "P of greys", "P without colours") for ending in ("png", "tif", "bmp")]
CASES += [(ending, kind) for kind in ("RGBA", "LA", "I;16") for ending in ("png", "tif")] + [("tif", "I"), ("tif", "F")]


@pytest.mark.parametrize(("ending", "kind"), CASES)
def test_values_are_read(tmp_path: Path, ending: str, kind: str) -> None:
    path = tmp_path / f"a.{ending}"
    MEANT[kind].save(path)
    assert np.array_equal(np.asarray(read_mask(path)), VALUES)


@pytest.mark.parametrize(("ending", "mode"), [(ending, mode) for ending in LOSSLESS for mode in ("1", "L")])
def test_black_and_white_is_read_alike_in_all_gifs(tmp_path: Path, ending: str, mode: str) -> None:
    """A GIF of two values has a palette of two, of 256 greys, or none, by its encoder; Carvana's masks are such GIFs."""
    binary = VALUES > 0
    Image.fromarray(binary if mode == "1" else (binary * 255).astype(np.uint8)).save(tmp_path / f"a.{ending}")
    one = 255 if mode == "L" and ending != "gif" else 1
    assert np.array_equal(np.asarray(read_mask(tmp_path / f"a.{ending}")), binary * one)


def test_greys_of_a_gif_are_its_values(tmp_path: Path) -> None:
    """Pillow numbers the greys 0, 2, 5 of a mask as 0, 1, 2 when it writes a GIF."""
    values = np.array([[5, 5, 2], [0, 2, 5]], np.uint8)
    Image.fromarray(values).save(tmp_path / "a.gif")
    assert np.array_equal(np.asarray(read_mask(tmp_path / "a.gif")), values)


def transparent() -> Image.Image:
    alpha = np.full((2, 3), 255, np.uint8)
    alpha[0, 0] = 0
    return Image.fromarray(np.dstack([VALUES] * 3 + [alpha]))


FRACTION = Image.fromarray(VALUES.astype(np.float32) / 2)
COLOR = Image.fromarray(np.dstack([VALUES, VALUES, VALUES + 1]))
REFUSED = {
    "colours": ("png", COLOR, r"a colour image, with the colour \[0, 0, 1\]; .* set data\.mask_colors"),
    "colours of a GIF": ("gif", MEANT["P"], r"a GIF with colours, .* set data\.mask_colors"),
    "inverted palette": (
        "png",
        palette_image(VALUES, [[255] * 3, [9] * 3, [0] * 3]),
        "palette of greys in another order",
    ),
    "CMYK": ("tif", Image.new("CMYK", (3, 2)), r"a colour image \(CMYK\)"),
    "transparent": ("png", transparent(), "transparent pixels, which have no class"),
    "fraction": ("tif", FRACTION, "floating-point numbers with a fraction"),
    "not a number": (
        "tif",
        Image.fromarray(np.full((2, 3), np.nan, np.float32)),
        "floating-point numbers with a fraction",
    ),
    "JPEG": ("jpg", MEANT["L"], "a lossy JPEG"),
    "WebP": ("webp", MEANT["L"], "a lossy WEBP"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_mask_without_a_single_meaning_is_refused(tmp_path: Path, what: str) -> None:
    ending, image, message = REFUSED[what]
    image.save(tmp_path / f"mask.{ending}")
    with pytest.raises(DataError, match=rf"mask\.{ending} (is|has) .*{message}|mask\.{ending} (is|has) {message}"):
        read_mask(tmp_path / f"mask.{ending}")


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_equal_channels_of_16_bits_are_refused(tmp_path: Path, ending: str) -> None:
    """Pillow returns the upper 8 bits, which are 0 in a mask of class ids."""
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / f"a.{ending}"), np.dstack([VALUES.astype(np.uint16)] * 3))
    with pytest.raises(DataError, match=rf"a\.{ending} has channels of 16 bits"):
        read_mask(tmp_path / f"a.{ending}")
