"""Pictures in a grid, with names at its rows, heads over its columns and captions. Pure functions, as in drawing.py."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from callbacks.drawing import INK, PAPER, fitting, tiled

TITLE = 24  # pixels that a title adds to the top of a grid
_MARGIN, _HEADS, _CAPTIONS, _PALE = 10, 18, 18, (110, 110, 116)
_WIDEST = 1280  # pixels of a row of pictures, to fit on a screen


def as_pictures(images: Tensor) -> Tensor:
    """Images uint8 (B, C, H, W) of one or three channels -> pictures (B, 3, H, W) on the CPU."""
    return images.cpu().expand(-1, 3, -1, -1)


def tile_size(height: int, width: int, columns: int, smallest: int = 48) -> tuple[int, int]:
    """The height and width at which ``columns`` pictures are shown in a row: small ones times a whole number, which leaves
    their pixels square, until the longer side has ``smallest`` pixels; large ones reduced until the row fits a screen."""
    times = -(-smallest // max(height, width))
    scale = min(times, _WIDEST / (columns * width))
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


def picture_grid(
    rows: Sequence[Sequence[Tensor]],
    names: Sequence[str] = (),
    heads: Sequence[str] = (),
    title: str = "",
    gap: int = 2,
    captions: Sequence[Sequence[str]] = (),
    smallest: int = 48,
) -> Tensor:
    """Pictures in rows, on white paper.

    Args:
        rows: pictures uint8 (3, H, W), shown at the first one's aspect; rows may differ in length.
        names: one for each row, left of it; () for none.
        heads: one for each column, above it; () for none.
        title: above all.
        gap: pixels between pictures.
        captions: one for each picture of each row, below it, shortened to its width; () for a row without.
        smallest: see ``tile_size``.
    """
    columns = max(map(len, rows))
    height, width = tile_size(*rows[0][0].shape[1:], columns, smallest)
    font, large = ImageFont.load_default(12), ImageFont.load_default(14)
    left = _MARGIN + (max(round(font.getlength(name)) for name in names) + 8 if names else 0)
    top = _MARGIN + TITLE * bool(title) + _HEADS * bool(heads)
    captions = captions or [()] * len(rows)
    tops = [top + r * (height + gap) + _CAPTIONS * sum(map(bool, captions[:r])) for r in range(len(rows) + 1)]
    across = max(left + columns * (width + gap) - gap, _MARGIN + round(large.getlength(title))) + _MARGIN
    sheet = Image.new("RGB", (across, tops[-1] - gap + _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN if names else left, _MARGIN + 6), title, INK, large, anchor="lm")
    for c, head in enumerate(heads):
        draw.text((left + c * (width + gap) + width / 2, top - 9), head, _PALE, font, anchor="mm")
    for r, (y, pictures) in enumerate(zip(tops, rows, strict=False)):
        if names:
            draw.text((left - 8, y + height / 2), names[r], INK, font, anchor="rm")
        for c, picture in enumerate(pictures):
            tile = tiled(picture, *fitting(picture, height, width)).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(np.ascontiguousarray(tile)), (left + c * (width + gap), y))
        for c, caption in enumerate(captions[r]):
            at = left + c * (width + gap) + width / 2, y + height + _CAPTIONS / 2 - 1
            draw.text(at, shortened(caption, width, font), _PALE, font, anchor="mm")
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)
