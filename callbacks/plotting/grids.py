"""Pictures in a grid, with names at its rows, heads over its columns and captions. Pure functions, as in drawing.py."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from darkroom.callbacks.plotting.images import INK, PAPER, fitting, resize, tiled

TITLE = 24  # pixels that a title adds to the top of a grid
_MARGIN, _HEADS, _CAPTIONS, _PALE = 10, 18, 18, (110, 110, 116)
_LINE, _NAMES = 14, 190  # pixels from a line of text to the next, and of the longest line of a name
_WIDEST = 1280  # pixels of a row of pictures, to fit on a screen


def as_pictures(images: Tensor) -> Tensor:
    """Images uint8 (B, C, H, W) of one or three channels -> pictures (B, 3, H, W) on the CPU."""
    return images.cpu().expand(-1, 3, -1, -1)


def tile_size(height: int, width: int, columns: int, smallest: int = 48) -> tuple[int, int]:
    """The height and width at which ``columns`` pictures are shown in a row: small ones times a whole number, which leaves
    their pixels square, until the longer side has ``smallest`` pixels; large ones reduced until the row fits a screen."""
    times = -(-smallest // max(height, width))
    scale = min(times, _WIDEST / (columns * width))
    scale = int(scale) if scale > 1 else scale
    return max(1, round(height * scale)), max(1, round(width * scale))


def near_square(count: int) -> int:
    """How many of so many pictures stand in a row, for about as many rows; 16 at most."""
    return min(16, math.ceil(math.sqrt(count)))


def spread(total: int, most: int) -> list[int]:
    """The numbers from 0 to total - 1; of more than ``most`` so many, evenly, with both ends."""
    return torch.linspace(0, total - 1, min(total, most)).round().long().tolist()


def shortened(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """A text in one line, or as much of its beginning as fits into so many pixels, with dots for the rest."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    return next(
        (f"{text[:n].rstrip()}…" for n in range(len(text), 0, -1) if font.getlength(text[:n] + "…") <= width), ""
    )


def wrapped(text: str, width: float, font: ImageFont.FreeTypeFont, most: int) -> list[str]:
    """A text in lines of so many pixels, ``most`` of them; the last one has dots for the rest."""
    words, lines = text.split(), []
    while words and len(lines) < most - 1:
        count = next((n for n in range(len(words), 1, -1) if font.getlength(" ".join(words[:n])) <= width), 1)
        lines.append(shortened(" ".join(words[:count]), width, font))
        words = words[count:]
    return [*lines, shortened(" ".join(words), width, font)] if words else lines


def _write(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[str],
    at: tuple[float, float],
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
    anchor: str,
) -> None:
    """Lines of text, ``at`` the middle of their height."""
    for index, line in enumerate(lines):
        draw.text((at[0], at[1] + _LINE * (index - (len(lines) - 1) / 2)), line, colour, font, anchor=anchor)


def picture_grid(
    rows: Sequence[Sequence[Tensor]],
    names: Sequence[str] = (),
    heads: Sequence[str] = (),
    title: str = "",
    gap: int = 2,
    captions: Sequence[Sequence[str]] = (),
    smallest: int = 48,
    lines: int = 1,
) -> Tensor:
    """Pictures in rows, on white paper.

    Args:
        rows: pictures uint8 (3, H, W), shown at the first one's aspect; rows may differ in length.
        names: one for each row, left of it, long ones in several lines; () for none.
        heads: one for each column, or for as many columns each, above their middle; () for none.
        title: above all.
        gap: pixels between pictures.
        captions: one for each picture of each row, below it, shortened to its width; () for a row without.
        smallest: see ``tile_size``.
        lines: of a caption, at most.
    """
    columns = max(map(len, rows))
    height, width = tile_size(*rows[0][0].shape[1:], columns, smallest)
    font, large = ImageFont.load_default(12), ImageFont.load_default(14)
    beside = [wrapped(name, _NAMES, font, max(1, height // _LINE)) for name in names]
    below = [[wrapped(caption, width, font, lines) for caption in row] for row in captions] or [[]] * len(rows)
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
    for r, (y, pictures) in enumerate(zip(tops, rows, strict=False)):
        if names:
            _write(draw, beside[r], (left - 8, y + height / 2), INK, font, "rm")
        for c, picture in enumerate(pictures):
            tile = tiled(picture, *fitting(picture, height, width)).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(np.ascontiguousarray(tile)), (left + c * (width + gap), y))
        for c, caption in enumerate(below[r]):
            middle = y + height + _CAPTIONS / 2 - 1 + _LINE * (len(caption) - 1) / 2
            _write(draw, caption, (left + c * (width + gap) + width / 2, middle), _PALE, font, "mm")
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def picture_groups(
    groups: Sequence[Tensor],
    names: Sequence[str],
    heads: Sequence[str],
    title: str = "",
    smallest: int = 48,
) -> Tensor:
    """Groups of columns side by side, together as wide as a screen at most.

    Args:
        groups: pictures uint8 (rows x columns, 3, H, W), one row after the other; as many columns in each.
        names: one for each row.
        heads: one for each group, above its middle.
        title: above all.
        smallest: see ``tile_size``.
    """
    columns = len(groups[0]) // len(names)
    size = tile_size(*groups[0].shape[2:], columns * len(groups), smallest)
    grids = []
    for pictures, head in zip(groups, heads, strict=True):
        rows = torch.stack([resize(picture, size) for picture in pictures]).split(columns)
        # With a title of its own each grid is as high as the first.
        grids.append(picture_grid(rows, () if grids else names, [head], " " if grids and title else title, smallest=1))
    return torch.cat(grids, 2)
