"""Images of test samples for a page: selection, overlays, boxes, and data URIs."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from darkroom.callbacks.plotting.style import ERROR_COLOUR, IGNORE, IGNORE_COLOUR, class_palette, load_font
from darkroom.report.gallery import Shown
from darkroom.report.outputs import data_uri
from darkroom.runtime.records.results import Results

SIDE = 256  # pixels of the longer side of an image in a page
MOST = 120  # samples of a gallery
_LOSSLESS = 96  # pixels of the longer side up to which an image is a PNG, not a JPEG
_WORST, _EACH = 24, 3  # samples that are selected for being the worst, and for each key

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True)
class Box:
    """Box to draw.

    Args:
        corners: x0, y0, x1, y1 in pixels of the image.
        colour: of the line.
        text: written above; empty: none.
        dashed: dashed line.
    """

    corners: Sequence[float] | np.ndarray
    colour: Colour
    text: str = ""
    dashed: bool = False


def kept_samples(results: Results) -> set[int]:
    """Return the samples whose image was kept."""
    names = (path.stem for path in (results.folder / "images").glob("*.png"))
    return {int(name) for name in names if name.isdigit()}


def select(keys: Mapping[int, Sequence[str]], most: int = MOST) -> list[int]:
    """Select samples for a gallery: the worst ones, and up to three for every key.

    Args:
        keys: of each sample, worst sample first.
        most: largest number of samples.

    Returns:
        The samples in the order of ``keys``.
    """
    counts: Counter[str] = Counter()
    chosen: set[int] = set()
    for index, (sample, words) in enumerate(keys.items()):
        if len(chosen) < most and (index < _WORST or any(counts[word] < _EACH for word in words)):
            chosen.add(sample)
            counts.update(words)
    return [sample for sample in keys if sample in chosen]


def read_image(path: Path, side: int | None = SIDE) -> np.ndarray:
    """Return an image uint8 (H, W, 3), reduced so that its longer side has at most ``side`` pixels.

    Raises:
        OSError: the file is missing or damaged.
    """
    with Image.open(path) as file:
        image = file.convert("RGB")
    if side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.array(image)


def read_ids(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return class ids uint8 (H, W), resized to a height and width without new values.

    Raises:
        OSError: the file is missing or damaged.
    """
    with Image.open(path) as file:
        ids = file.resize(size[::-1], Image.Resampling.NEAREST) if size and file.size != size[::-1] else file
        return np.array(ids)


def show(image: np.ndarray, name: str = "") -> Shown:
    """Return an image uint8 (H, W, 3) for a gallery, under a name."""
    height, width = image.shape[:2]
    lossless = max(height, width) <= _LOSSLESS
    file = io.BytesIO()
    if lossless:
        Image.fromarray(image).save(file, "PNG")
    else:
        Image.fromarray(image).save(file, "JPEG", quality=88, subsampling=0)
    return Shown(data_uri(file.getvalue(), "png" if lossless else "jpeg"), name, width, height)


def overlay(image: np.ndarray, ids: np.ndarray, num_classes: int, background: int | None) -> np.ndarray:
    """Blend the colours of classes over a grey image; ignored pixels and the background, if given, keep their own."""
    colours = class_palette(num_classes)[ids]
    clear = (ids == IGNORE) | (ids == (IGNORE if background is None else background))
    grey = image.mean(2, keepdims=True)  # the image's own colours would change those of the classes
    return np.where(clear[..., None], image, (grey + 2.0 * colours) / 3).astype(np.uint8)


def error_map(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Show wrong pixels red over a darkened image, ignored ones grey."""
    errors = darken(image)
    errors[truth != prediction] = ERROR_COLOUR
    errors[truth == IGNORE] = IGNORE_COLOUR
    return errors


def darken(image: np.ndarray) -> np.ndarray:
    """Return an image in dark grey."""
    grey = (0.45 * image.mean(2, keepdims=True)).astype(np.uint8)
    return np.repeat(grey, 3, 2)


def draw_boxes(image: np.ndarray, boxes: Sequence[Box], side: int = SIDE) -> np.ndarray:
    """Draw boxes over an image, which is enlarged by a whole number if it is smaller than ``side``; first boxes on top."""
    times = max(1, side // max(image.shape[:2]))
    canvas = Image.fromarray(image.repeat(times, 0).repeat(times, 1))
    draw = ImageDraw.Draw(canvas)
    rectangles = [_pixels(box.corners, times, canvas.size) for box in boxes]
    for box, rectangle in reversed(list(zip(boxes, rectangles, strict=True))):
        if box.dashed:
            _dash(draw, rectangle, box.colour)
        else:
            draw.rectangle(rectangle, outline=box.colour, width=2)
    written: list[Rectangle] = []
    for box, rectangle in zip(boxes, rectangles, strict=True):
        if box.text:
            _write(draw, box, rectangle, written, canvas.width)
    return np.array(canvas)


def _pixels(corners: Sequence[float] | np.ndarray, times: int, size: tuple[int, int]) -> Rectangle:
    """Return the first and last pixels of a box, within an image of this width and height."""
    x0, y0, x1, y1 = (round(times * float(value)) for value in corners)
    x0, y0 = max(0, min(x0, size[0] - 1)), max(0, min(y0, size[1] - 1))
    return x0, y0, max(x0, min(x1, size[0]) - 1), max(y0, min(y1, size[1]) - 1)


def _write(draw: ImageDraw.ImageDraw, box: Box, rectangle: Rectangle, written: list[Rectangle], width: int) -> None:
    """Write the text of a box above it, unless it would cover the text of another one."""
    font = load_font(12)
    extent = round(font.getlength(box.text)) + 4
    left, top = max(0, min(rectangle[0], width - extent)), max(0, rectangle[1] - 14)
    place = left, top, left + extent, top + 13
    if any(place[0] < x1 and x0 < place[2] and place[1] < y1 and y0 < place[3] for x0, y0, x1, y1 in written):
        return
    written.append(place)
    draw.rectangle(place, fill=box.colour)
    ink = (255, 255, 255) if sum(box.colour) < 380 else (20, 20, 24)
    draw.text((left + 2, top + 7), box.text, ink, font, anchor="lm")


def _dash(draw: ImageDraw.ImageDraw, corners: Rectangle, colour: Colour, dash: int = 5) -> None:
    x0, y0, x1, y1 = corners
    for x in range(x0, x1 + 1, 2 * dash):
        for y in (y0, max(y0, y1 - 1)):
            draw.rectangle((x, y, min(x + dash - 1, x1), min(y + 1, y1)), colour)
    for y in range(y0, y1 + 1, 2 * dash):
        for x in (x0, max(x0, x1 - 1)):
            draw.rectangle((x, y, min(x + 1, x1), min(y + dash - 1, y1)), colour)


def crop(
    image: np.ndarray, corners: Sequence[float] | np.ndarray, context: float = 0.4
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a square around a box, as far as the image reaches, and its left upper corner.

    Args:
        image: uint8 (H, W, 3).
        corners: x0, y0, x1, y1 in pixels.
        context: margin as a fraction of the longer side of the box.
    """
    x0, y0, x1, y1 = (float(value) for value in corners)
    reach = (0.5 + context) * max(x1 - x0, y1 - y0, 8.0)
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    height, width = image.shape[:2]
    left, top = (
        int(min(max(0.0, center - reach), size - 1)) for center, size in zip(middle, (width, height), strict=True)
    )
    right, bottom = (
        int(min(size, max(low + 1, center + reach + 1)))
        for center, low, size in zip(middle, (left, top), (width, height), strict=True)
    )
    return image[top:bottom, left:right], (left, top)


def address(results: Results, sample: int) -> str:
    """Return the address of a sample's image, from the folder of the page."""
    return f"../{results.folder.name}/images/{sample:06d}.png"


def sample_titles(results: Results) -> list[str]:
    """Return the caption of each sample, its file, or its number, in the order of ``samples.csv``."""
    table = results.tables["samples"]
    if "caption" in table:
        return table["caption"]
    names = table.get("name", [""] * len(table["sample"]))
    return [name or f"sample {sample}" for name, sample in zip(names, table["sample"], strict=True)]
