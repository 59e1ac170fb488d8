"""Curves: one number over another. Pure functions, as in drawing.py."""

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from darkroom.callbacks.plotting.axes import (
    SMOOTH,
    Colour,
    Ticks,
    class_colour,
    empty_plot,
    framed,
    round_numbers,
    round_powers,
    shown,
)
from darkroom.callbacks.plotting.images import PAPER

_SIZE, _NEWEST = (640, 400), (31, 84, 200)  # pixels of the plot
_MARGIN = 0.04  # part of an axis beyond the values at either end


def curves(
    series: Sequence[Tensor],
    names: Sequence[str],
    title: str,
    axes: tuple[str, str] = ("", ""),
    log_x: bool = False,
    log_y: bool = False,
    history: bool = False,
) -> Tensor:
    """A picture of curves, with a legend on its right. A point that is not finite, or not positive on a logarithmic axis,
    is left out, and its neighbours are joined.

    Args:
        series: points (N, 2) of each curve, in order.
        names: of each.
        title: above the plot.
        axes: names of the axes.
        log_x, log_y: the axis is logarithmic.
        history: these are one curve's stages, oldest first: the last in full colour, the earlier ones paler behind it.
    """
    kept = [_drawable(points.double().cpu(), log_x, log_y) for points in series]
    together = torch.cat([*kept, torch.empty(0, 2, dtype=torch.double)])
    together = together if len(together) else torch.ones(1, 2)  # nothing to see, but the axes
    (across, x_end), (up, y_end) = (
        _axis(values.tolist(), log) for values, log in zip(together.T, (log_x, log_y), strict=True)
    )
    count = len(series)
    colours = [_faded(index, count) if history else class_colour(index, count) for index in range(count)]
    plot = empty_plot(_SIZE, across, up)
    for index, (points, colour) in enumerate(zip(kept, colours, strict=True)):
        x, y = (
            _placed(values, ends, log)
            for values, ends, log in zip(points.T, (x_end, y_end), (log_x, log_y), strict=True)
        )
        _line(plot, x, y, colour, strong=not history or index == count - 1)
    entries = list(zip(names, colours, strict=True))
    return framed(shown(plot), across, up, title, axes, entries[::-1] if history else entries)


def _drawable(points: Tensor, log_x: bool, log_y: bool) -> Tensor:
    """The points that have a place on the axes."""
    lowest = torch.tensor([0.0 if log else -math.inf for log in (log_x, log_y)])
    return points[(points.isfinite() & (points > lowest)).all(1)]


def _axis(values: Sequence[float], log: bool) -> tuple[Ticks, tuple[float, float]]:
    """Ticks of an axis that all values fit on, and its ends; of a logarithmic one, their logarithms."""
    low, high = (math.log10(end) if log else end for end in (min(values), max(values)))
    reach = (high - low) * _MARGIN or (0.1 if log else abs(low) * 0.1 or 1.0)  # where all values are one
    ends = low - reach, high + reach
    ticks = round_powers(10 ** ends[0], 10 ** ends[1]) if log else round_numbers(*ends)
    return list(zip(ticks, _placed(torch.tensor(ticks, dtype=torch.double), ends, log).tolist(), strict=True)), ends


def _placed(values: Tensor, ends: tuple[float, float], log: bool) -> Tensor:
    """Where values stand on an axis, in [0, 1]."""
    return ((values.log10() if log else values) - ends[0]) / (ends[1] - ends[0])


def _faded(index: int, count: int) -> Colour:
    """The colour of one of the stages of a curve: paper's, nearly, for the first; the newest one's for the last."""
    part = 1.0 if index == count - 1 else 0.2 + 0.35 * index / max(1, count - 2)
    return tuple(round(paper + part * (ink - paper)) for paper, ink in zip(PAPER, _NEWEST, strict=True))


def _line(plot: Image.Image, x: Tensor, y: Tensor, colour: Colour, strong: bool) -> None:
    """Draws a curve through places (x, y) in [0, 1], y upward, with dots at them if it is a strong one."""
    draw = ImageDraw.Draw(plot)
    places = list(zip((x * plot.width).tolist(), ((1 - y) * plot.height).tolist(), strict=True))
    if len(places) > 1:
        draw.line(places, colour, SMOOTH * (2 if strong else 1) + 1, joint="curve")
    if strong or len(places) == 1:
        radius = 3 * SMOOTH
        for across, down in places:
            draw.ellipse((across - radius, down - radius, across + radius, down + radius), colour)
