"""Points in the plane, coloured by class. Pure functions, as in drawing.py."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from callbacks.drawing import INK, PAPER, palette

_SIDE, _MARGIN, _SMOOTH = 520, 14, 3  # pixels of the plot, around it; how much larger it is drawn
_LINE, _AXIS, _PALE, _PLAIN = (234, 234, 238), (190, 190, 196), (110, 110, 116), (72, 118, 232)
_MOST_NAMES = 24
# Ten hues that are told apart at a point's size.
_HUES = (
    (31, 119, 200),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (236, 100, 190),
    (120, 120, 120),
    (178, 180, 20),
    (23, 190, 207),
)


def scatter(
    points: Tensor, labels: Tensor | None, names: Sequence[str], title: str, axes: tuple[str, str] = ("", "")
) -> Tensor:
    """A picture of points, both axes at one scale, with a legend of the classes on its right.

    Args:
        points: float (N, 2), finite.
        labels: int (N,), classes from 0; None: one colour.
        names: of the classes.
        title: above the plot.
        axes: names of the axes.
    """
    font, large = ImageFont.load_default(12), ImageFont.load_default(14)
    present = [] if labels is None else labels.unique().tolist()
    entries = [(label, names[label] if label < len(names) else str(label)) for label in present]
    entries = entries if len(entries) <= _MOST_NAMES else []
    legend = max((round(font.getlength(name)) for _, name in entries), default=-30) + 30
    left, top = _MARGIN + 36, _MARGIN + 44
    across = max(left + _SIDE + legend + _MARGIN, _MARGIN + round(large.getlength(title)) + _MARGIN)
    sheet = Image.new("RGB", (across, top + _SIDE + 40 + _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)

    centre, reach = _extent(points)
    ticks = [_ticks(middle - reach, middle + reach) for middle in centre]
    places = [
        [_SIDE * (0.5 + (t - middle) / (2 * reach)) for t in at] for at, middle in zip(ticks, centre, strict=True)
    ]
    at = (points.double() - torch.tensor(centre)) / (2 * reach) + 0.5
    count = max([len(names), *(label + 1 for label in present)])
    colours = {label: class_colour(label, count) for label in present}
    sheet.paste(_dots(at, labels, places, colours), (left, top))
    if count <= len(_HUES):
        medians = [at[labels == label].median(0).values * _SIDE for label, _ in entries]
        near = [sum(bool(((a - b).abs() < torch.tensor([50, 16])).all()) for b in medians) > 1 for a in medians]
        for (_, name), (x, y), crowded in zip(entries, medians, near, strict=True):
            if not crowded:  # names over names say nothing
                where = left + x.item(), top + _SIDE - y.item()
                draw.text(where, name, INK, large, anchor="mm", stroke_width=3, stroke_fill=PAPER)

    draw.text((_MARGIN, _MARGIN + 6), title, INK, large, anchor="lm")
    for value, place in zip(ticks[0], places[0], strict=True):
        draw.text((left + place, top + _SIDE + 12), f"{value:g}", _PALE, font, anchor="mm")
    for value, place in zip(ticks[1], places[1], strict=True):
        draw.text((left - 8, top + _SIDE - place), f"{value:g}", _PALE, font, anchor="rm")
    draw.text((left + _SIDE / 2, top + _SIDE + 30), axes[0], INK, font, anchor="mm")
    draw.text((_MARGIN, top - 12), axes[1], INK, font, anchor="lm")
    for row, (label, name) in enumerate(entries):
        x, y = left + _SIDE + 16, top + 10 + 20 * row
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), colours[label])
        draw.text((x + 12, y), name, INK, font, anchor="lm")
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def class_colour(label: int, count: int) -> tuple[int, int, int]:
    """A class's colour among so many; the palette's first one, near black, is kept for backgrounds."""
    return _HUES[label] if count <= len(_HUES) else tuple(palette(255)[1 + label % 254].tolist())


def _extent(points: Tensor) -> tuple[list[float], float]:
    """The middle of the points and how far the plot reaches from it, along both axes, in the points' unit."""
    low, high = points.double().amin(0), points.double().amax(0)
    reach = float((high - low).max()) / 2 * 1.06
    return ((low + high) / 2).tolist(), reach or 1.0


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, four to nine of them."""
    rough = (high - low) / 8
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    return [round(index * step, 12) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _dots(
    at: Tensor, labels: Tensor | None, places: Sequence[Sequence[float]], colours: dict[int, tuple[int, int, int]]
) -> Image.Image:
    """The plot itself: points at (x, y) in [0, 1], y upward, over lines at the ticks; drawn large and reduced."""
    side = _SIDE * _SMOOTH
    plot = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(plot, "RGBA")  # so that colours mix
    for x in places[0]:
        draw.line((x * _SMOOTH, 0, x * _SMOOTH, side), _LINE, _SMOOTH)
    for y in places[1]:
        draw.line((0, side - y * _SMOOTH, side, side - y * _SMOOTH), _LINE, _SMOOTH)
    radius = _SMOOTH * min(4.0, max(2.6, 80 / math.sqrt(len(at))))
    # Shuffled: no class lies on top because it came last.
    for index in torch.randperm(len(at), generator=torch.Generator().manual_seed(0)).tolist():
        x, y = at[index, 0].item() * side, (1 - at[index, 1].item()) * side
        colour = _PLAIN if labels is None else colours[int(labels[index])]
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), (*colour, 190))
    draw.rectangle((0, 0, side - 1, side - 1), outline=_AXIS, width=_SMOOTH)
    return plot.resize((_SIDE, _SIDE), Image.Resampling.BOX)
