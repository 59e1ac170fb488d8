"""Scatter plots, coloured by class. Pure functions."""

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from darkroom.callbacks.plotting.axes import (
    SMOOTH,
    Colour,
    add_axes,
    class_colour,
    empty_plot,
    finish_plot,
    has_names,
    round_numbers,
)
from darkroom.callbacks.plotting.images import INK, PAPER, load_font

_SIDE, _PLAIN = 520, (72, 118, 232)  # pixels of the plot; of points without a class


def scatter(
    points: Tensor, labels: Tensor | None, names: Sequence[str], title: str, axes: tuple[str, str] = ("", "")
) -> Tensor:
    """Plot points, both axes at one scale, with a legend of the classes on the right.

    Args:
        points: float (N, 2), finite.
        labels: int (N,), classes from 0; None: one colour.
        names: of the classes.
        title: above the plot.
        axes: names of the axes.
    """
    present = [] if labels is None else labels.unique().tolist()
    count = max([len(names), *(label + 1 for label in present)])
    entries = {label: names[label] if label < len(names) else str(label) for label in present}
    colours = {label: class_colour(label, count) for label in present}

    centre, reach = _extent(points)
    across, up = (
        [(value, 0.5 + (value - middle) / (2 * reach)) for value in round_numbers(middle - reach, middle + reach)]
        for middle in centre
    )
    at = (points.double() - torch.tensor(centre)) / (2 * reach) + 0.5
    plot = empty_plot((_SIDE, _SIDE), across, up)
    _dots(plot, at, labels, colours)
    plot = finish_plot(plot)
    if has_names(count) and labels is not None:
        _write(plot, {name: at[labels == label].median(0).values * _SIDE for label, name in entries.items()})
    return add_axes(plot, across, up, title, axes, [(name, colours[label]) for label, name in entries.items()])


def _extent(points: Tensor) -> tuple[list[float], float]:
    """Return the center of the points and the half side of the plot, in the points' unit."""
    low, high = points.double().amin(0), points.double().amax(0)
    reach = float((high - low).max()) / 2 * 1.06
    return ((low + high) / 2).tolist(), reach or 1.0


def _dots(plot: Image.Image, at: Tensor, labels: Tensor | None, colours: dict[int, Colour]) -> None:
    """Draw points at (x, y) in [0, 1], y upward."""
    draw, side = ImageDraw.Draw(plot, "RGBA"), plot.width  # so that colours mix
    radius = SMOOTH * min(4.0, max(2.6, 80 / math.sqrt(len(at))))
    # Shuffled, so that no class covers the others because it is the last.
    for index in torch.randperm(len(at), generator=torch.Generator().manual_seed(0)).tolist():
        x, y = at[index, 0].item() * side, (1 - at[index, 1].item()) * side
        colour = _PLAIN if labels is None else colours[int(labels[index])]
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), (*colour, 190))


def _write(plot: Image.Image, medians: dict[str, Tensor]) -> None:
    """Write names at the median of their points, except where they would overlap."""
    draw, font = ImageDraw.Draw(plot), load_font(14)
    for name, place in medians.items():
        near = sum(bool(((place - other).abs() < torch.tensor([50, 16])).all()) for other in medians.values())
        if near == 1:
            where = place[0].item(), plot.height - place[1].item()
            draw.text(where, name, INK, font, anchor="mm", stroke_width=3, stroke_fill=PAPER)
