"""Grids of images with names of rows, heads of columns, captions and legends. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Literal

import torch
from PIL import ImageFont
from torch import Tensor

from darkroom.callbacks.plotting.images import INK, fit_size, palette
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.callbacks.plotting.style import PALE, load_font
from darkroom.callbacks.plotting.vector.items import Colour, Marked, Swatch, Tile, Words

TITLE = 24  # pixels that a title adds to the top of a grid
_MARGIN, _HEADS, _CAPTIONS, _GAP, _ENTRY = 10, 18, 18, 4, 24  # pixels; of a line of a legend
_SIZE, _LARGE = 11, 13  # pixels of the font, and of titles
_LINE, _NAMES = 14, 190  # pixels from a line of text to the next, and of the longest line of a name
_WIDEST = 1280  # pixels of a row of images, to fit on a screen


def expand_to_rgb(images: Tensor) -> Tensor:
    """Expand images uint8 (B, C, H, W) of one or three channels to (B, 3, H, W), on the CPU."""
    return images.cpu().expand(-1, 3, -1, -1)


def tile_size(height: int, width: int, columns: int, smallest: int = 48) -> tuple[int, int]:
    """Return the height and width at which ``columns`` images are shown in a row.

    Small images are enlarged by a whole number until the longer side has ``smallest`` pixels; large ones are scaled down
    until the row fits a screen.
    """
    times = -(-smallest // max(height, width))
    scale = min(times, _WIDEST / (columns * width))
    scale = int(scale) if scale > 1 else scale
    return max(1, round(height * scale)), max(1, round(width * scale))


def near_square(count: int) -> int:
    """Return the number of columns of a nearly square grid of ``count`` images; 16 at most."""
    return min(16, math.ceil(math.sqrt(count)))


def spread_indices(total: int, most: int) -> list[int]:
    """Return the numbers from 0 to total - 1, or an even selection of ``most`` of them with both ends."""
    return torch.linspace(0, total - 1, min(total, most)).round().long().tolist()


def shorten(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """Return a text in one line, cut with an ellipsis where it is wider than ``width`` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    return next(
        (f"{text[:n].rstrip()}…" for n in range(len(text), 0, -1) if font.getlength(text[:n] + "…") <= width), ""
    )


def wrap(text: str, width: float, font: ImageFont.FreeTypeFont, most: int) -> list[str]:
    """Wrap a text into at most ``most`` lines of ``width`` pixels; the last one is cut with an ellipsis."""
    words = text.split()
    lines: list[str] = []
    while words and len(lines) < most - 1:
        count = next((n for n in range(len(words), 1, -1) if font.getlength(" ".join(words[:n])) <= width), 1)
        lines.append(shorten(" ".join(words[:count]), width, font))
        words = words[count:]
    return [*lines, shorten(" ".join(words), width, font)] if words else lines


def image_grid(
    rows: Sequence[Sequence[Tensor | None]],
    names: Sequence[str] = (),
    heads: Sequence[str] = (),
    title: str = "",
    gap: int = 2,
    captions: Sequence[Sequence[str]] = (),
    smallest: int = 48,
    lines: int = 1,
    tile: tuple[int, int] | None = None,
) -> ImagePage:
    """Draw images in rows, on white.

    Args:
        rows: images uint8 (3, H, W) of any size, shown at their own aspect; None leaves a place empty. Rows may
            differ in length.
        names: one for each row, left of it, long ones in several lines; () for none.
        heads: one for each column, or for each group of equally many columns, above their middle; () for none.
        title: title of the figure.
        gap: pixels between images.
        captions: one for each image of each row, below it, shortened to its width; () for a row without.
        smallest: see ``tile_size``.
        lines: maximum number of lines of a caption.
        tile: height and width at which images are shown; None: ``tile_size`` of the first image.
    """
    columns = max(map(len, rows))
    height, width = tile or tile_size(*_first_size(rows), columns, smallest)
    font = load_font(_SIZE)
    beside = [wrap(name, _NAMES, font, max(1, height // _LINE)) for name in names]
    below = [[wrap(caption, width, font, lines) for caption in row] for row in captions] or [[]] * len(rows)
    room = [_CAPTIONS + _LINE * (max(1, *map(len, row)) - 1) if row else 0 for row in below]
    left = _MARGIN + (max(round(font.getlength(line)) for name in beside for line in name or [""]) + 8 if names else 0)
    top = _MARGIN + TITLE * bool(title) + _HEADS * bool(heads)
    tops = [top + r * (height + gap) + sum(room[:r]) for r in range(len(rows) + 1)]
    longest = _MARGIN + round(load_font(_LARGE).getlength(title))
    page = ImagePage(tops[-1] - gap + _MARGIN, max(left + columns * (width + gap) - gap, longest) + _MARGIN)
    if title.strip():
        page.words.append(Words(title, _MARGIN if names else left, _MARGIN + 6, "l", _LARGE, INK))
    for c, head in enumerate(heads):
        across = columns // len(heads) * (width + gap)
        page.words += _lines([head], left + c * across + (across - gap) / 2, top - 9, "m", PALE)
    for r, (y, images) in enumerate(zip(tops[:-1], rows, strict=True)):
        page.words += _lines(beside[r], left - 8, y + height / 2, "r", INK) if names else []
        places = ((image, left + c * (width + gap)) for c, image in enumerate(images))
        page.tiles += [_fit(image, x, y, height, width) for image, x in places if image is not None]
        for c, caption in enumerate(below[r]):
            middle = y + height + _CAPTIONS / 2 - 1 + _LINE * (len(caption) - 1) / 2
            page.words += _lines(caption, left + c * (width + gap) + width / 2, middle, "m", PALE)
    return page


def _first_size(rows: Sequence[Sequence[Tensor | None]]) -> tuple[int, int]:
    """Return the height and width of the first image."""
    _, height, width = next(image.shape for row in rows for image in row if image is not None)
    return height, width


def _fit(one: Tensor | Marked, x: int, y: int, height: int, width: int, center: bool = False) -> Tile:
    """Place an image in a tile at its own aspect, in the left upper corner or in the center."""
    image = one.image if isinstance(one, Marked) else one
    high, wide = fit_size(image, height, width)
    down, right = ((height - high) // 2, (width - wide) // 2) if center else (0, 0)
    tile = Tile(image, x + right, y + down, high, wide)
    return tile._replace(marks=one.marks, size=one.size) if isinstance(one, Marked) else tile


def _lines(lines: Sequence[str], x: float, y: float, anchor: Literal["l", "m", "r"], colour: Colour) -> list[Words]:
    """Place lines of text with their vertical center at y."""
    tops = (y + _LINE * (index - (len(lines) - 1) / 2) for index in range(len(lines)))
    return [Words(line, x, top, anchor, _SIZE, colour) for line, top in zip(lines, tops, strict=True) if line]


def image_groups(
    groups: Sequence[Tensor],
    names: Sequence[str],
    heads: Sequence[str],
    title: str = "",
    smallest: int = 48,
) -> ImagePage:
    """Draw groups of columns side by side, together no wider than a screen.

    Args:
        groups: images uint8 (rows x columns, 3, H, W), one row after the other, with equal numbers of columns.
        names: one for each row.
        heads: one for each group, above its middle.
        title: title of the figure.
        smallest: see ``tile_size``.
    """
    columns = len(groups[0]) // len(names)
    height, width = groups[0].shape[2:]
    tile = tile_size(height, width, columns * len(groups), smallest)
    pages: list[ImagePage] = []
    for images, head in zip(groups, heads, strict=True):
        # A blank title gives each grid the height of the first.
        name, above = ((), " " if title else "") if pages else (names, title)
        pages.append(image_grid(images.split(columns), name, [head], above, tile=tile))
    return reduce(ImagePage.beside, pages)


def contact_sheet(
    rows: Mapping[str, Sequence[Tensor | Marked]],
    legend: Mapping[str, int] | None = None,
    side: int = 128,
    title: str = "",
    heads: Sequence[str] = (),
) -> ImagePage:
    """Draw images in named rows, one column per sample, with a legend of class names and ids below.

    Args:
        rows: images uint8 (3, H, W) by the name of their row, some with marks. Images may differ in size: each is shown in
            the center of a tile with the first image's aspect.
        legend: names of classes and their ids in ``palette``.
        side: longer side of a tile in pixels.
        title: title of the figure.
        heads: one for each column, above its middle; () for none.
    """
    first = next(iter(rows.values()))[0]
    height, width = fit_size(first.image if isinstance(first, Marked) else first, side, side)
    font = load_font(_SIZE)
    left = max(round(font.getlength(name)) for name in rows) + 14
    top = _GAP + TITLE * bool(title) + _HEADS * bool(heads)
    across = left + max(map(len, rows.values())) * (width + _GAP) + _GAP
    page = ImagePage(top + len(rows) * (height + _GAP), max(across, _GAP + round(load_font(_LARGE).getlength(title))))
    if title:
        page.words.append(Words(title, _GAP, _MARGIN + 4, "l", _LARGE, INK))
    for c, head in enumerate(heads):
        line = shorten(head, width, font)
        page.words += _lines([line], left + c * (width + _GAP) + width / 2, top - 9, "m", PALE)
    for r, (name, images) in enumerate(rows.items()):
        y = top + r * (height + _GAP)
        page.words += _lines([name], left - 8, y + height / 2, "r", INK)
        page.tiles += [_fit(one, left + c * (width + _GAP), y, height, width, True) for c, one in enumerate(images)]
    _add_legend(page, legend or {}, left)
    return page


def _add_legend(page: ImagePage, legend: Mapping[str, int], left: int) -> None:
    """Add lines of names and colours at the bottom of a page, wrapped to its width."""
    colours, font = palette(max([0, *legend.values()]) + 1), load_font(_SIZE)
    x, line = left, 0
    for name, index in legend.items():
        extent = 22 + round(font.getlength(name)) + 12
        if x + extent > page.width and x > left:
            x, line = left, line + 1
        y = page.height + 12 + _ENTRY * line
        red, green, blue = colours[index].tolist()
        page.swatches.append(Swatch((red, green, blue), x, y - 7))
        page.words.append(Words(name, x + 20, y, "l", _SIZE, INK))
        x += extent
    page.height += _ENTRY * (line + 1) if legend else 0
