"""Bar charts, histograms and reliability diagrams. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.callbacks.plotting.drawing import Numbers, Plot, to_array
from darkroom.callbacks.plotting.style import (
    COLOURS,
    WIDTHS,
    add_legend,
    class_colours,
    font_size,
    label_axes,
    new_axes,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHARE = 0.8  # fraction of the axis that bars take


def bar_chart(
    groups: Sequence[str],
    values: Mapping[str, Sequence[float]],
    title: str = "",
    axes: tuple[str, str] = ("", ""),
    errors: Mapping[str, Sequence[float]] | None = None,
    horizontal: bool = False,
    width: float = WIDTHS["neurips"],
) -> Plot:
    """Plot a group of bars for each name, one bar per series.

    Args:
        groups: names along the axis, such as classes.
        values: by the name of a series, one for each group; nan for none. One series has no legend.
        title: above the plot.
        axes: labels of the axis of the groups and the axis of the values, with their units.
        errors: by the name of a series, half the length of the error bar of each value; None: without error bars.
        horizontal: bars to the right, the first group on top, for long names or many groups.
        width: of the figure, in inches; see ``style.parse_width``.
    """
    with styled(width):
        inches = font_size(width) / 72
        bars = len(groups) * max(1, len(values))
        aspect = max(0.4, (len(groups) * 0.6 + bars * 1.0 + 4) * inches / width) if horizontal else 0.55
        figure, plot = new_axes(width, aspect)
        middles = np.arange(len(groups))
        side = _SHARE / max(1, len(values))
        draw = plot.barh if horizontal else plot.bar
        for index, ((name, series), colour) in enumerate(zip(values.items(), class_colours(len(values)), strict=True)):
            places = middles + (index - (len(values) - 1) / 2) * side
            draw(places, series, side, color=colour, label=name if len(values) > 1 else "_")
            if errors and name in errors:
                style: dict[str, Any] = {"fmt": "none", "ecolor": "black", "elinewidth": 0.8, "capsize": 2}
                if horizontal:
                    plot.errorbar(series, places, xerr=errors[name], **style)
                else:
                    plot.errorbar(places, series, yerr=errors[name], **style)
        if horizontal:
            plot.set_yticks(middles, groups)
            plot.invert_yaxis()
        else:
            longest = max(map(len, groups), default=0)
            turned = longest * len(groups) * 0.6 * inches > 0.7 * width
            plot.set_xticks(middles, groups)
            if turned:
                for label in plot.get_xticklabels():
                    label.set(rotation=45, ha="right", rotation_mode="anchor")
        plot.grid(False, axis="y" if horizontal else "x")
        label_axes(plot, title, (axes[1], axes[0]) if horizontal else axes)
        add_legend(plot)
    return Plot(figure)


def histogram(
    values: Mapping[str, Numbers],
    bins: int = 30,
    title: str = "",
    axes: tuple[str, str] = ("", "count"),
    width: float = WIDTHS["neurips"],
) -> Plot:
    """Plot how often values of each series fall into equal bins between the least and the greatest of all.

    Args:
        values: by the name of a series, float (N,); those that are not finite are omitted. One series has no legend.
        bins: number of bins.
        title: above the plot.
        axes: labels of the axes, with their units.
        width: of the figure, in inches; see ``style.parse_width``.
    """
    arrays = {name: to_array(some) for name, some in values.items()}
    finite = {name: some[np.isfinite(some)] for name, some in arrays.items()}
    together = np.concatenate([*finite.values(), np.empty(0)])
    edges = np.histogram_bin_edges(together, bins)
    with styled(width):
        figure, plot = new_axes(width, 0.55)
        for (name, some), colour in zip(finite.items(), class_colours(len(finite)), strict=True):
            alone = len(finite) == 1
            kind: dict[str, Any] = {"histtype": "bar" if alone else "step", "alpha": 0.85 if alone else 1.0}
            plot.hist(some, edges.tolist(), color=colour, label="_" if alone else name, **kind)
        label_axes(plot, title, axes)
        add_legend(plot)
    return Plot(figure)


def reliability_diagram(
    confidences: Numbers,
    accuracies: Numbers,
    counts: Numbers,
    title: str = "",
    width: float = WIDTHS["iccv-column"],
) -> Plot:
    """Plot the accuracy of predictions by their confidence, over the diagonal of perfect calibration.

    Guo et al. 2017, figure 1. The area of a dot is proportional to the number of its predictions.

    Args:
        confidences: mean confidence in each bin, in [0, 1], float (bins,).
        accuracies: fraction of correct predictions in each bin, in [0, 1].
        counts: predictions in each bin; bins without any are omitted.
        title: above the plot.
        width: of the figure, in inches; see ``style.parse_width``.
    """
    with styled(width):
        figure, plot = new_axes(width, 0.95)
        plot.plot([0, 1], [0, 1], "--", color="#9a9aa0", linewidth=1, label="perfect calibration")
        columns = np.stack([to_array(values) for values in (confidences, accuracies, counts)])
        x, y, n = columns[:, columns[2] > 0]
        _gaps(plot, x, y)
        plot.plot(x, y, color=COLOURS[0], linewidth=1)
        plot.scatter(x, y, 6 + 90 * n / max(1, n.max(initial=1)), COLOURS[0], zorder=3)
        plot.set_aspect("equal")
        plot.set_xlim(0, 1)
        plot.set_ylim(0, 1)
        label_axes(plot, title, ("mean confidence (0 to 1)", "accuracy (0 to 1)"))
        plot.legend(loc="upper left", borderaxespad=0.5)
    return Plot(figure)


def _gaps(plot: "Axes", x: np.ndarray, y: np.ndarray) -> None:
    """Draw the distance of each accuracy from its confidence."""
    plot.vlines(x, np.minimum(x, y), np.maximum(x, y), COLOURS[1], linewidth=2, alpha=0.5, label="gap")
