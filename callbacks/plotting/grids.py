"""Grids of images with names of rows, heads of columns and captions. Pure functions."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from darkroom.callbacks.plotting.images import INK, PAPER, center_in_tile, fit_size, load_font, resize

TITLE = 24  # pixels that a title adds to the top of a grid
_MARGIN, _HEADS, _CAPTIONS, _PALE = 10, 18, 18, (110, 110, 116)
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


def _write(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[str],
    at: tuple[float, float],
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
    anchor: str,
) -> None:
    """Write lines of text, centered vertically at ``at``."""
    for index, line in enumerate(lines):
        draw.text((at[0], at[1] + _LINE * (index - (len(lines) - 1) / 2)), line, colour, font, anchor=anchor)


def image_grid(
    rows: Sequence[Sequence[Tensor]],
    names: Sequence[str] = (),
    heads: Sequence[str] = (),
    title: str = "",
    gap: int = 2,
    captions: Sequence[Sequence[str]] = (),
    smallest: int = 48,
    lines: int = 1,
) -> Tensor:
    """Draw images in rows, on white.

    Args:
        rows: images uint8 (3, H, W), shown at the first one's aspect; rows may differ in length.
        names: one for each row, left of it, long ones in several lines; () for none.
        heads: one for each column, or for each group of equally many columns, above their middle; () for none.
        title: title of the figure.
        gap: pixels between images.
        captions: one for each image of each row, below it, shortened to its width; () for a row without.
        smallest: see ``tile_size``.
        lines: maximum number of lines of a caption.
    """
    columns = max(map(len, rows))
    _, height, width = rows[0][0].shape
    height, width = tile_size(height, width, columns, smallest)
    font, large = load_font(12), load_font(14)
    beside = [wrap(name, _NAMES, font, max(1, height // _LINE)) for name in names]
    below = [[wrap(caption, width, font, lines) for caption in row] for row in captions] or [[]] * len(rows)
    room = [_CAPTIONS + _LINE * (max(1, *map(len, row)) - 1) if row else 0 for row in below]
    left = _MARGIN + (max(round(font.getlength(line)) for name in beside for line in name or [""]) + 8 if names else 0)
    top = _MARGIN + TITLE * bool(title) + _HEADS * bool(heads)
    tops = [top + r * (height + gap) + sum(room[:r]) for r in range(len(rows) + 1)]
    across = max(left + columns * (width + gap) - gap, _MARGIN + round(large.getlength(title))) + _MARGIN
    sheet = Image.new("RGB", (across, tops[-1] - gap + _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN if names else left, _MARGIN + 6), title, INK, large, anchor="lm")
    for c, head in enumerate(heads):
        across = columns // len(heads) * (width + gap)
        draw.text((left + c * across + (across - gap) / 2, top - 9), head, _PALE, font, anchor="mm")
    for r, (y, images) in enumerate(zip(tops[:-1], rows, strict=True)):
        if names:
            _write(draw, beside[r], (left - 8, y + height / 2), INK, font, "rm")
        for c, image in enumerate(images):
            tile = center_in_tile(image, *fit_size(image, height, width)).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(np.ascontiguousarray(tile)), (left + c * (width + gap), y))
        for c, caption in enumerate(below[r]):
            middle = y + height + _CAPTIONS / 2 - 1 + _LINE * (len(caption) - 1) / 2
            _write(draw, caption, (left + c * (width + gap) + width / 2, middle), _PALE, font, "mm")
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def image_groups(
    groups: Sequence[Tensor],
    names: Sequence[str],
    heads: Sequence[str],
    title: str = "",
    smallest: int = 48,
) -> Tensor:
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
    size = tile_size(height, width, columns * len(groups), smallest)
    grids: list[Tensor] = []
    for images, head in zip(groups, heads, strict=True):
        rows = torch.stack([resize(image, size) for image in images]).split(columns)
        # A blank title gives each grid the height of the first.
        grids.append(image_grid(rows, () if grids else names, [head], " " if grids and title else title, smallest=1))
    return torch.cat(grids, 2)
