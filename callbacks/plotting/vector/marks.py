"""Marks over an image as pixels, and polygons around the pixels of masks."""

from collections import defaultdict

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from darkroom.callbacks.plotting.images import resize
from darkroom.callbacks.plotting.style import load_font
from darkroom.callbacks.plotting.vector.items import TINT, Border, Marked, Region, Tag, Words

Line = list[tuple[float, float]]  # corners (x, y)
Loop = list[tuple[int, int]]  # corners (x, y) of a closed line


def paint(marked: Marked) -> Tensor:
    """Return the image at the size at which it is shown, with its marks: uint8 (3, height, width)."""
    canvas = resize(marked.image, marked.size).float()
    for region in (mark for mark in marked.marks if isinstance(mark, Region)):
        mask, inside = _at_size(region, marked.size)
        colour = torch.tensor(region.colour).float().view(3, 1, 1)
        canvas = torch.lerp(canvas, colour, mask - (1 - TINT) * inside)
    pixels = canvas.round().to(torch.uint8).permute(1, 2, 0).numpy()
    drawing = Image.fromarray(np.ascontiguousarray(pixels))
    draw = ImageDraw.Draw(drawing)
    for mark in marked.marks:
        if isinstance(mark, Border):
            _paint_border(draw, mark)
        elif isinstance(mark, Tag):
            draw.rectangle((mark.left, mark.top, mark.right - 1, mark.bottom - 1), mark.colour)
            draw_words(draw, mark.words)
    return torch.from_numpy(np.array(drawing)).permute(2, 0, 1)


def draw_words(draw: ImageDraw.ImageDraw, words: Words) -> None:
    """Draw a line of text as pixels."""
    draw.text((words.x, words.y), words.text, words.colour, load_font(words.size), anchor=f"{words.anchor}m")


def _at_size(region: Region, size: tuple[int, int], line: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the mask at a size, and the part of it inside of its outline of ``line`` pixels: float32 (1, H, W) each."""
    reach = region.line if line is None else line
    mask = F.interpolate(region.mask[None, None].float(), size, mode="nearest-exact")[0]
    return mask, 1 - F.max_pool2d(1 - mask, 2 * reach + 1, 1, reach)


def _paint_border(draw: ImageDraw.ImageDraw, border: Border) -> None:
    left, top, right, bottom, colour, line, dash = border
    if not dash:
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        return
    for x in range(left, right + 1, 2 * dash):
        for y in (top, max(top, bottom - line + 1)):
            draw.rectangle((x, y, min(x + dash - 1, right), min(y + line - 1, bottom)), colour)
    for y in range(top, bottom + 1, 2 * dash):
        for x in (left, max(left, right - line + 1)):
            draw.rectangle((x, y, min(x + line - 1, right), min(y + dash - 1, bottom)), colour)


def lines_of_border(border: Border) -> tuple[list[Line], bool]:
    """Return the middle lines of a border, and True if they are one closed line; dashed lines begin at a left or upper end.

    Their corners are (x, y) in pixels.
    """
    half = border.line / 2
    right, bottom = border.right + 1, border.bottom + 1
    x0, y0 = border.left + half, border.top + half
    x1, y1 = max(x0, right - half), max(y0, bottom - half)
    if not border.dash:
        return [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]], True
    across: list[Line] = [[(border.left, y), (right, y)] for y in (y0, y1)]
    return across + [[(x, border.top), (x, bottom)] for x in (x0, x1)], False


def trace_region(region: Region, size: tuple[int, int]) -> tuple[list[Loop], list[Loop], tuple[int, int]]:
    """Return the mask's polygons, those of its outline, and the height and width that their corners refer to.

    A point is inside of polygons if an odd number of them contains it. The corners lie between pixels of the image as it is
    shown, or of the mask if that is larger.

    Args:
        region: the mask.
        size: height and width at which the image is shown.
    """
    finer = region.mask.shape[0] > size[0]
    scale = region.mask.shape[0] / size[0] if finer else 1.0
    shape = (region.mask.shape[0], region.mask.shape[1]) if finer else size
    mask, inside = (one[0].bool().numpy() for one in _at_size(region, shape, max(1, round(region.line * scale))))
    whole = trace(mask)
    return whole, whole + trace(inside), shape


def trace(mask: np.ndarray) -> list[Loop]:
    """Return the polygons around the pixels of a mask, bool (H, W), along the edges of its pixels."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    # An edge runs with its pixel on the right: neighbour of the pixel, and start and end from its left upper corner.
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    following: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for neighbour, (x0, y0), (x1, y1) in sides:
        for y, x in np.argwhere(inner & ~neighbour).tolist():
            following[x + x0, y + y0].append((x + x1, y + y1))
    loops = []
    while following:
        first = next(iter(following))  # in reading order, so that it is a corner
        loop: Loop = [first]
        while loop[-1] in following:
            ends = following[loop[-1]]
            after = ends.pop()
            if not ends:
                del following[loop[-1]]
            if len(loop) > 1 and _in_line(loop[-2], loop[-1], after):
                loop[-1] = after
            else:
                loop.append(after)
        loops.append(loop[:-1])  # it ends where it began
    return loops


def _in_line(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    return a[0] == b[0] == c[0] or a[1] == b[1] == c[1]
