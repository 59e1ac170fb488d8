"""Heat map of a matrix, such as a confusion matrix. Pure functions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.callbacks.plotting.drawing import Numbers, Plot, to_array
from darkroom.callbacks.plotting.style import WIDTHS, font_size, label_axes, new_axes, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 60  # rows or columns that are named
_SMALLEST = 5  # points of a value in a cell
_MAP = "cividis"  # equal to readers with and without colour blindness: Nunez et al. 2018


def matrix(
    values: Numbers,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    axes: tuple[str, str] = ("predicted class", "true class"),
    normalize: bool = False,
    unit: str = "",
    width: float = WIDTHS["neurips"],
) -> Plot:
    """Plot a matrix as coloured cells, with a colour bar. Cells that are large enough have their value as text.

    With more than 60 rows or columns the cells are an image, one pixel each.

    Args:
        values: (R, C); cells that are not finite are white.
        rows, columns: their names; more than 60 are not written.
        title: above the plot.
        axes: labels of the columns and the rows.
        normalize: divide each row by its sum, so that a confusion matrix shows recalls on its diagonal.
        unit: label of the colour bar; empty: "count", or "fraction of the row" if normalized.
        width: of the figure, in inches; see ``style.parse_width``.
    """
    cells = to_array(values)
    if normalize:
        sums = cells.sum(1, keepdims=True)
        cells = np.divide(cells, sums, out=np.full_like(cells, np.nan), where=sums > 0)
    height, breadth = cells.shape
    with styled(width):
        figure, plot = new_axes(width, min(1.4, max(0.45, 0.78 * height / breadth)))
        finite = cells[np.isfinite(cells)]
        top = 1.0 if normalize else max(float(finite.max(initial=0)), 1e-12)
        low = min(0.0, float(finite.min(initial=0)))
        mesh = _draw_cells(plot, cells, low, top)
        plot.set_aspect("equal")
        plot.grid(False)
        plot.spines[:].set_visible(False)
        plot.tick_params(length=0)
        _name(plot, rows, columns, font_size(width))
        side = 0.62 * width / max(breadth, 0.7 * height)
        size = _size_of_values(cells, normalize, side, font_size(width))
        if size >= _SMALLEST:
            _annotate(plot, cells, low + 0.55 * (top - low), normalize, size)
        label_axes(plot, title, axes)
        bar = figure.colorbar(mesh, ax=plot, shrink=0.8, aspect=30, pad=0.02)
        bar.set_label(unit or ("fraction of the row" if normalize else "count"))
        bar.outline.set_visible(False)
    return Plot(figure)


def _draw_cells(plot: "Axes", cells: np.ndarray, low: float, top: float) -> Any:
    """Draw cells (R, C), the first row on top; return the artist that a colour bar describes."""
    height, breadth = cells.shape
    if max(cells.shape) > _MOST_NAMES:  # vectors of a million cells take minutes and 100 MB
        extent = (0, breadth, height, 0)
        return plot.imshow(cells, cmap=_MAP, vmin=low, vmax=top, extent=extent, interpolation="none")
    # Squares as vectors: an image of few pixels is blurred by some viewers.
    mesh = plot.pcolormesh(cells, cmap=_MAP, vmin=low, vmax=top, edgecolors="white", linewidth=0.3)
    plot.invert_yaxis()
    return mesh


def _name(plot: "Axes", rows: Sequence[str], columns: Sequence[str], size: float) -> None:
    """Write the names of rows and columns at most at a size in points, if they are few enough."""
    plot.set_xticks([])
    plot.set_yticks([])
    if len(columns) <= _MOST_NAMES:
        plot.set_xticks(np.arange(len(columns)) + 0.5, columns)
        plot.tick_params(axis="x", labelsize=_size_of_names(len(columns), size))
        many = len(columns) > 20
        if many or max(map(len, columns), default=0) * len(columns) >= 45:
            for name in plot.get_xticklabels():
                name.set(
                    rotation=90 if many else 45, ha="right", rotation_mode="anchor", va="center" if many else "top"
                )
    if len(rows) <= _MOST_NAMES:
        plot.set_yticks(np.arange(len(rows)) + 0.5, rows)
        plot.tick_params(axis="y", labelsize=_size_of_names(len(rows), size))


def _size_of_names(count: int, size: float) -> float:
    return max(4.0, min(0.9 * size, 190 / max(1, count)))


def _size_of_values(cells: np.ndarray, fractions: bool, inches: float, size: float) -> float:
    """Return the size in points, at most ``size``, at which all values fit into cells of a side in inches."""
    longest = max((len(_text(value, fractions)) for value in cells[np.isfinite(cells)]), default=1)
    return min(size, 72 * inches * min(0.7, 0.85 / (0.62 * longest)))


def _annotate(plot: "Axes", cells: np.ndarray, middle: float, fractions: bool, size: float) -> None:
    """Write the values in their cells: white up to ``middle``, black above."""
    for (row, column), value in np.ndenumerate(cells):
        if np.isfinite(value):
            text, colour = _text(value, fractions), "black" if value > middle else "white"
            plot.text(column + 0.5, row + 0.5, text, color=colour, size=size, ha="center", va="center")


def _text(value: float, fraction: bool) -> str:
    """Return a value as short text."""
    if fraction:
        return f"{value:.2f}".replace("0.", ".", 1) if value < 1 else f"{value:.0f}"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e5 else f"{value:.3g}"
