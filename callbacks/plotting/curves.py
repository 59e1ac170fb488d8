"""Line plots. Pure functions."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from darkroom.callbacks.plotting.drawing import Numbers, Plot, to_array
from darkroom.callbacks.plotting.style import (
    COLOURS,
    LINES,
    WIDTHS,
    add_legend,
    class_colours,
    label_axes,
    new_axes,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_DOTS = 40  # points of a curve that are marked by dots


def curves(
    series: Sequence[Numbers],
    names: Sequence[str],
    title: str = "",
    axes: tuple[str, str] = ("", ""),
    log_x: bool = False,
    log_y: bool = False,
    history: bool = False,
    bands: Sequence[Numbers | None] = (),
    width: float = WIDTHS["neurips"],
) -> Plot:
    """Plot curves with a legend on the right.

    A point that is not finite, or not positive on a logarithmic axis, is omitted, and its neighbours are joined.

    Args:
        series: points (N, 2) of each curve, in order.
        names: name of each curve; empty for one without an entry in the legend.
        title: above the plot.
        axes: labels of the axes, with their units.
        log_x, log_y: the axis is logarithmic.
        history: the series are one curve at different times, oldest first; the last has full colour, earlier ones paler.
        bands: for each curve, the half height (N,) of a band around it, such as the standard deviation, or None; () for
            curves without bands.
        width: of the figure, in inches; see ``style.parse_width``.
    """
    with styled(width):
        figure, plot = new_axes(width)
        count = len(series)
        colours = [fade(index, count) if history else colour for index, colour in enumerate(class_colours(count))]
        for index, (points, name, colour) in enumerate(zip(series, names, colours, strict=True)):
            band = bands[index] if bands else None
            half = None if band is None else to_array(band)
            strong = not history or index == count - 1
            line = "-" if history else LINES[index // len(COLOURS) % len(LINES)]
            _curve(plot, to_array(points).reshape(-1, 2), half, (log_x, log_y), name, colour, strong, line)
        label_axes(plot, title, axes)
        for axis, log in ((plot.xaxis, log_x), (plot.yaxis, log_y)):
            if log:
                set_log(plot, axis.axis_name)
        add_legend(plot, reverse=history)
    return Plot(figure)


def set_log(plot: "Axes", which: str) -> None:
    """Make the axis x or y logarithmic, with at least two labelled ticks that are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis = plot.xaxis if which == "x" else plot.yaxis
    (plot.set_xscale if which == "x" else plot.set_yscale)("log")
    if not math.isfinite(axis.get_minpos()):  # no point
        axis.axes.set(**{f"{which}lim": (0.1, 10.0)})
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    # Ticks at these multiples of powers of ten; much less than a decade may have none of them.
    subs = (1.0,) if decades > 3 else (1.0, 2.0, 5.0) if decades > 1.3 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    locator = LogLocator(subs=subs, numticks=9)
    axis.set_major_locator(locator if decades > 0.7 else MaxNLocator(5))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def fade(index: int, count: int) -> str:
    """Return the colour of one curve of a history: pale for the first, full colour for the last."""
    strength = 1.0 if index == count - 1 else 0.2 + 0.35 * index / max(1, count - 2)
    newest = [int(COLOURS[0][place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(255 + strength * (channel - 255)):02x}" for channel in newest)


def _curve(
    plot: "Axes",
    points: np.ndarray,
    band: np.ndarray | None,
    log: tuple[bool, bool],
    name: str,
    colour: str,
    strong: bool,
    line: str,
) -> None:
    """Draw a curve through points (N, 2); a strong one has dots at them, if they are few."""
    lowest = np.array([0.0 if one else -math.inf for one in log])
    drawable = (np.isfinite(points) & (points > lowest)).all(1)
    x, y = points[drawable].T
    dots = len(x) == 1 or (strong and len(x) <= _MOST_DOTS)
    plot.plot(
        x,
        y,
        line,
        color=colour,
        label=name or "_",
        marker="o" if dots else "",
        linewidth=1.6 if strong else 1.0,
        zorder=3 if strong else 2,
    )
    if band is not None:
        half = np.nan_to_num(band[drawable])
        low = (y - half).clip(min=y.min(initial=1.0) / 10) if log[1] else y - half
        plot.fill_between(x, low, y + half, color=colour, alpha=0.2, linewidth=0)
