"""Line plots. Pure functions."""

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from darkroom.callbacks.plotting.axes import (
    SMOOTH,
    Colour,
    Ticks,
    add_axes,
    class_colour,
    empty_plot,
    finish_plot,
    round_numbers,
    round_powers,
)
from darkroom.callbacks.plotting.images import PAPER

_SIZE, _NEWEST = (640, 400), (31, 84, 200)  # pixels of the plot
_MARGIN = 0.04  # fraction of an axis beyond the values at either end


def curves(
    series: Sequence[Tensor],
    names: Sequence[str],
    title: str,
    axes: tuple[str, str] = ("", ""),
    log_x: bool = False,
    log_y: bool = False,
    history: bool = False,
) -> Tensor:
    """Plot curves with a legend on the right.

    A point that is not finite, or not positive on a logarithmic axis, is omitted, and its neighbours are joined.

    Args:
        series: points (N, 2) of each curve, in order.
        names: name of each curve.
        title: above the plot.
        axes: names of the axes.
        log_x, log_y: the axis is logarithmic.
        history: the series are one curve at different times, oldest first; the last has full colour, earlier ones paler.
    """
    drawable = [_keep_drawable(points.double().cpu(), log_x, log_y) for points in series]
    together = torch.cat([*drawable, torch.empty(0, 2, dtype=torch.double)])
    together = together if len(together) else torch.ones(1, 2)  # only the axes are plotted
    (across, x_end), (up, y_end) = (
        _axis(values.tolist(), log) for values, log in zip(together.T, (log_x, log_y), strict=True)
    )
    count = len(series)
    colours = [_fade(index, count) if history else class_colour(index, count) for index in range(count)]
    plot = empty_plot(_SIZE, across, up)
    for index, (points, colour) in enumerate(zip(drawable, colours, strict=True)):
        x, y = (
            _place(values, ends, log)
            for values, ends, log in zip(points.T, (x_end, y_end), (log_x, log_y), strict=True)
        )
        _line(plot, x, y, colour, strong=not history or index == count - 1)
    entries = list(zip(names, colours, strict=True))
    return add_axes(finish_plot(plot), across, up, title, axes, entries[::-1] if history else entries)


def _keep_drawable(points: Tensor, log_x: bool, log_y: bool) -> Tensor:
    """Select the points that can be placed on the axes."""
    lowest = torch.tensor([0.0 if log else -math.inf for log in (log_x, log_y)])
    return points[(points.isfinite() & (points > lowest)).all(1)]


def _axis(values: Sequence[float], log: bool) -> tuple[Ticks, tuple[float, float]]:
    """Return the ticks of an axis that holds all values, and its ends, which are logarithms for a logarithmic axis."""
    low, high = (math.log10(end) if log else end for end in (min(values), max(values)))
    reach = (high - low) * _MARGIN or (0.1 if log else abs(low) * 0.1 or 1.0)  # if all values are equal
    ends = low - reach, high + reach
    ticks = round_powers(10 ** ends[0], 10 ** ends[1]) if log else round_numbers(*ends)
    return list(zip(ticks, _place(torch.tensor(ticks, dtype=torch.double), ends, log).tolist(), strict=True)), ends


def _place(values: Tensor, ends: tuple[float, float], log: bool) -> Tensor:
    """Return the positions of values on an axis, in [0, 1]."""
    return ((values.log10() if log else values) - ends[0]) / (ends[1] - ends[0])


def _fade(index: int, count: int) -> Colour:
    """Return the colour of one curve of a history: nearly that of paper for the first, full colour for the last."""
    strength = 1.0 if index == count - 1 else 0.2 + 0.35 * index / max(1, count - 2)
    red, green, blue = (round(paper + strength * (ink - paper)) for paper, ink in zip(PAPER, _NEWEST, strict=True))
    return red, green, blue


def _line(plot: Image.Image, x: Tensor, y: Tensor, colour: Colour, strong: bool) -> None:
    """Draw a curve through positions (x, y) in [0, 1], y upward; a strong one has dots at them."""
    draw = ImageDraw.Draw(plot)
    places = list(zip((x * plot.width).tolist(), ((1 - y) * plot.height).tolist(), strict=True))
    if len(places) > 1:
        draw.line(places, colour, SMOOTH * (2 if strong else 1) + 1, joint="curve")
    if strong or len(places) == 1:
        radius = 3 * SMOOTH
        for across, down in places:
            draw.ellipse((across - radius, down - radius, across + radius, down + radius), colour)
