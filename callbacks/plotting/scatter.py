"""Scatter plots, coloured by class. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from darkroom.callbacks.plotting.drawing import Plot
from darkroom.callbacks.plotting.style import (
    COLOURS,
    MARKERS,
    WIDTHS,
    add_legend,
    class_colours,
    label_axes,
    new_axes,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES, _MOST_WRITTEN = 24, 10  # classes in the legend, and named in the plot itself


def scatter(
    points: Tensor,
    labels: Tensor | None,
    names: Sequence[str],
    title: str = "",
    axes: tuple[str, str] = ("", ""),
    width: float = WIDTHS["neurips"],
) -> Plot:
    """Plot points, both axes at one scale, with a legend of the classes on the right and their names at their medians.

    Args:
        points: float (N, 2), finite.
        labels: int (N,), classes from 0; None: one colour.
        names: of the classes.
        title: above the plot.
        axes: labels of the axes, with their units.
        width: of the figure, in inches; see ``style.parse_width``.
    """
    present = [] if labels is None else labels.unique().tolist()
    count = max([len(names), *(label + 1 for label in present)])
    entries = {label: names[label] if label < len(names) else str(label) for label in present}
    with styled(width):
        figure, plot = new_axes(width, 0.8)
        _dots(plot, points.double().cpu(), labels, class_colours(count) if count else COLOURS)
        _fit(plot, points.double().cpu())
        label_axes(plot, title, axes)
        if labels is not None and len(entries) <= _MOST_NAMES:
            colours, size = class_colours(count), 2 * width**0.5
            for label, name in entries.items():
                marker = MARKERS[label // len(COLOURS) % len(MARKERS)] if count <= len(COLOURS) else "o"
                plot.plot([], [], marker, color=colours[label], label=name or "_", markersize=size)
            add_legend(plot)
        if labels is not None and count <= _MOST_WRITTEN:
            middles = {name: points[labels == label].double().median(0).values for label, name in entries.items()}
            _write(plot, {name: middle for name, middle in middles.items() if name})
    return Plot(figure)


def _fit(plot: "Axes", points: Tensor) -> None:
    """Set the limits to a square around all points."""
    low, high = points.amin(0), points.amax(0)
    reach = float((high - low).max()) / 2 * 1.06
    reach = reach or max(1.0, 1e-3 * float(points.abs().max()))
    x, y = ((low + high) / 2).tolist()
    plot.set_xlim(x - reach, x + reach)
    plot.set_ylim(y - reach, y + reach)
    plot.set_aspect("equal", adjustable="box")


def _dots(plot: "Axes", points: Tensor, labels: Tensor | None, colours: Sequence[str]) -> None:
    """Draw the points of all classes in random order, so that no class covers the others because it is the last."""
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    each = [colours[0] if labels is None else colours[int(labels[index])] for index in order.tolist()]
    side = min(5.0, max(2.2, 80 / math.sqrt(len(points))))  # points
    x, y = points[order].T.numpy()
    plot.scatter(x, y, side**2, each, alpha=0.75, linewidths=0, zorder=2)


def _write(plot: "Axes", medians: Mapping[str, Tensor]) -> None:
    """Write names at the median of their points, except where they would overlap."""
    low, high = plot.get_xlim()
    room = torch.tensor([0.1, 0.035], dtype=torch.float64) * (high - low)
    for name, place in medians.items():
        near = sum(bool(((place - other).abs() < room).all()) for other in medians.values())
        if near == 1:
            paper = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.8}  # an outline would not be text
            x, y = place.tolist()
            plot.text(x, y, name, ha="center", va="center", zorder=4, bbox=paper)
