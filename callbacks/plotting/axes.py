"""Axes of a plot: ticks, names, title and legend. Pure functions."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from darkroom.callbacks.plotting.images import INK, PAPER, load_font, palette

SMOOTH = 3  # supersampling factor of a plot
_MARGIN, _MOST_NAMES = 14, 24
_LINE, _AXIS, _PALE = (234, 234, 238), (190, 190, 196), (110, 110, 116)
# Ten hues that are distinguishable at the size of a point.
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

Colour = tuple[int, int, int]
Ticks = Sequence[tuple[float, float]]  # values and their positions in [0, 1], from the left or from below


def class_colour(label: int, count: int) -> Colour:
    """Return the colour of a class among ``count``; the first of the palette, near black, is reserved for backgrounds."""
    if count <= len(_HUES):
        return _HUES[label]
    red, green, blue = palette(255)[1 + label % 254].tolist()
    return red, green, blue


def has_names(count: int) -> bool:
    """Return True if ``count`` classes are few enough to be named in the plot itself."""
    return count <= len(_HUES)


def round_numbers(low: float, high: float) -> list[float]:
    """Return four to nine round numbers in a range."""
    rough = (high - low) / 8
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    return [round(index * step, 12) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def round_powers(low: float, high: float) -> list[float]:
    """Return round numbers in a range of positive numbers, for a logarithmic axis: powers of ten, and 2 and 5 times them
    where these are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for times in ((1,), (1, 2, 5)):
        found = [float(f"{factor}e{power}") for power in powers for factor in times]
        found = [value for value in found if low <= value <= high]
        if len(found) > 2:
            return found
    return found if len(found) > 1 else round_numbers(low, high)


def empty_plot(size: tuple[int, int], across: Ticks, up: Ticks) -> Image.Image:
    """Draw an empty plot with grid lines at the ticks, ``SMOOTH`` times as large; ``finish_plot`` scales it down."""
    width, height = size[0] * SMOOTH, size[1] * SMOOTH
    plot = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(plot)
    for _, place in across:
        draw.line((place * width, 0, place * width, height), _LINE, SMOOTH)
    for _, place in up:
        draw.line((0, (1 - place) * height, width, (1 - place) * height), _LINE, SMOOTH)
    return plot


def finish_plot(plot: Image.Image) -> Image.Image:
    """Draw the edge of a plot and scale it down to its final size."""
    width, height = plot.size
    ImageDraw.Draw(plot).rectangle((0, 0, width - 1, height - 1), outline=_AXIS, width=SMOOTH)
    return plot.resize((width // SMOOTH, height // SMOOTH), Image.Resampling.BOX)


def add_axes(
    plot: Image.Image,
    across: Ticks,
    up: Ticks,
    title: str,
    axes: tuple[str, str] = ("", ""),
    entries: Sequence[tuple[str, Colour]] = (),
) -> Tensor:
    """Draw axes, title and legend around a plot; return an image uint8 (3, H, W).

    Args:
        plot: at its final size.
        across, up: ticks below it and on its left.
        title: title above it.
        axes: names of the axes.
        entries: names and colours of the legend on its right; omitted if there are more than 24.
    """
    font, large = load_font(12), load_font(14)
    entries = entries if len(entries) <= _MOST_NAMES else ()
    legend = max((round(font.getlength(name)) for name, _ in entries), default=-30) + 30
    left, top, (width, height) = _MARGIN + 36, _MARGIN + 44, plot.size
    full = max(left + width + legend + _MARGIN, _MARGIN + round(large.getlength(title)) + _MARGIN)
    sheet = Image.new("RGB", (full, top + height + 40 + _MARGIN), PAPER)
    sheet.paste(plot, (left, top))
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN + 6), title, INK, large, anchor="lm")
    for value, place in across:
        draw.text((left + place * width, top + height + 12), f"{value:g}", _PALE, font, anchor="mm")
    for value, place in up:
        draw.text((left - 8, top + (1 - place) * height), f"{value:g}", _PALE, font, anchor="rm")
    draw.text((left + width / 2, top + height + 30), axes[0], INK, font, anchor="mm")
    draw.text((_MARGIN, top - 12), axes[1], INK, font, anchor="lm")
    for row, (name, colour) in enumerate(entries):
        x, y = left + width + 16, top + 10 + 20 * row
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), colour)
        draw.text((x + 12, y), name, INK, font, anchor="lm")
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)
