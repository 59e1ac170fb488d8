"""Charts: positions of points on linear and logarithmic axes, bars, matrices, and the style of all of them."""

import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from torch import Tensor

from darkroom.callbacks.plotting.bars import bar_chart, histogram, reliability_diagram
from darkroom.callbacks.plotting.curves import curves, fade
from darkroom.callbacks.plotting.drawing import Drawing, Plot
from darkroom.callbacks.plotting.matrix import matrix
from darkroom.callbacks.plotting.scatter import scatter
from darkroom.callbacks.plotting.style import WIDTHS, class_colours, parse_width
from darkroom.errors import UsageError


def lines(plot: Plot) -> list[list[tuple[float, float]]]:
    """Points of each curve."""
    return [list(map(tuple, line.get_xydata().tolist())) for line in plot.figure.axes[0].lines]


def texts(plot: Plot) -> list[str]:
    """All texts of a plot."""
    plot.raster()
    return [text.get_text() for text in plot.figure.findobj(matplotlib.text.Text)]


def test_points_are_plotted_at_their_coordinates() -> None:
    series = [torch.tensor([[0.0, 0.0], [10.0, 5.0]]), torch.tensor([[5.0, 1.0]])]
    plot = curves(series, ["a", "b"], "title", ("x", "y"))
    assert lines(plot) == [[(0, 0), (10, 5)], [(5, 1)]]
    assert {"title", "x", "y", "a", "b"} <= set(texts(plot))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(1e-4, 1.0, ["0.0001", "0.001", "0.01", "0.1", "1"]), (3.0, 60.0, ["5", "10", "20", "50"])],
)
def test_logarithmic_axes_are_labelled_with_plain_numbers(low: float, high: float, ticks: list[str]) -> None:
    plot = curves([torch.tensor([[1.0, low], [100.0, high]])], ["a"], "", ("x", "y"), log_x=True, log_y=True)
    axes = plot.figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    plot.raster()
    bottom, top = axes.get_ylim()
    shown = [tick.get_text() for tick in axes.get_yticklabels() if bottom <= tick.get_position()[1] <= top]
    assert shown == ticks


def test_logarithmic_axis_of_less_than_a_decade_has_two_ticks() -> None:
    plot = curves([torch.tensor([[0.0, 3.1], [1.0, 3.4]])], ["a"], log_y=True)
    plot.raster()
    axes = plot.figure.axes[0]
    bottom, top = axes.get_ylim()
    assert sum(bottom <= tick <= top for tick in axes.get_yticks()) >= 2


def test_invalid_points_are_skipped() -> None:
    for bad in (math.nan, math.inf, 0.0, -1.0):
        broken = torch.tensor([[0.0, 1.0], [1.0, bad], [2.0, 3.0]])
        assert lines(curves([broken], ["a"], "", log_y=True)) == [[(0, 1), (2, 3)]]


def test_history_fades_old_curves() -> None:
    brightness = [sum(bytes.fromhex(fade(index, 5)[1:])) for index in range(5)]
    assert brightness == sorted(brightness, reverse=True)
    assert brightness[3] - brightness[4] > brightness[0] - brightness[3]  # the newest stands out
    plot = curves([torch.tensor([[0.0, 1.0], [1.0, height]]) for height in (3.0, 2.0)], ["old", "new"], history=True)
    assert [line.get_color() for line in plot.figure.axes[0].lines] == [fade(0, 2), fade(1, 2)]
    assert [text.get_text() for text in plot.figure.axes[0].get_legend().get_texts()] == ["new", "old"]


def test_band_spans_the_deviation() -> None:
    points = torch.tensor([[0.0, 5.0], [1.0, 6.0], [2.0, math.nan]])
    plot = curves([points], ["mean"], bands=[torch.tensor([1.0, 2.0, 0.0])])
    (band,) = plot.figure.axes[0].collections
    outline = band.get_paths()[0].vertices
    assert (outline[:, 1].min(), outline[:, 1].max()) == (4, 8)


@pytest.mark.parametrize(
    "series", [[], [torch.empty(0, 2)], [torch.full((3, 2), math.nan)], [torch.tensor([[7.0, 7.0]])]]
)
@pytest.mark.parametrize("log", [False, True])
def test_curves_plots_empty_and_nan_series(series: list[Tensor], log: bool) -> None:
    image = curves(series, ["a"] * len(series), "title", ("x", "y"), log_x=log, log_y=log).raster()
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3


def test_scatter_has_one_scale_and_class_colours() -> None:
    points = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    plot = scatter(points, torch.tensor([0, 1, 2]), ("a", "b", "c"), "title", ("x", "y"))
    plot.raster()
    axes = plot.figure.axes[0]
    (x0, y0), (x1, _), (_, y2) = axes.transData.transform(points.numpy())
    assert x1 - x0 == pytest.approx(y2 - y0)
    (dots,) = axes.collections
    colours = map(matplotlib.colors.to_hex, dots.get_facecolors())
    shown = dict(zip(map(tuple, dots.get_offsets().tolist()), colours, strict=True))
    assert [shown[tuple(place)] for place in points.tolist()] == [colour.lower() for colour in class_colours(3)]


def test_scatter_names_classes_at_their_medians_unless_they_overlap() -> None:
    points = torch.tensor([[0.0, 0.0], [10.0, 10.0], [10.1, 10.1]])
    plot = scatter(points, torch.arange(3), ("apart", "near", "close"))
    assert [(text.get_text(), text.get_position()) for text in plot.figure.axes[0].texts] == [("apart", (0, 0))]


@pytest.mark.parametrize("points", [torch.zeros(1, 2), torch.full((5, 2), 1e-9), torch.randn(50, 2) * 1e6])
def test_scatter_plots_degenerate_points_without_labels(points: Tensor) -> None:
    assert scatter(points, None, (), "title").raster().shape[0] == 3


def test_scatter_omits_legend_for_many_classes() -> None:
    points = torch.randn(60, 2)
    few, many = (scatter(points, torch.arange(60) % count, ()) for count in (12, 40))
    assert few.figure.axes[0].get_legend() is not None
    assert many.figure.axes[0].get_legend() is None


def test_bars_have_heights_and_errors_of_their_values() -> None:
    values = {"U-Net": [0.5, 0.7], "FCN": [0.4, math.nan]}
    for horizontal in (False, True):
        plot = bar_chart(["cat", "dog"], values, "IoU", ("class", "IoU (0 to 1)"), {"FCN": [0.1, 0.0]}, horizontal)
        lengths = [bar.get_width() if horizontal else bar.get_height() for bar in plot.figure.axes[0].patches]
        assert lengths == pytest.approx([0.5, 0.7, 0.4, math.nan], nan_ok=True)
        assert {"cat", "dog", "U-Net", "FCN", "class", "IoU (0 to 1)"} <= set(texts(plot))


def test_histogram_counts_finite_values() -> None:
    plot = histogram({"a": torch.tensor([0.0, 0.1, 1.0, math.nan])}, bins=2, axes=("score (0 to 1)", "count"))
    assert [bar.get_height() for bar in plot.figure.axes[0].patches] == [2, 1]
    assert histogram({"a": torch.empty(0)}).raster().shape[0] == 3


def test_reliability_diagram_omits_empty_bins() -> None:
    plot = reliability_diagram(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.0, 0.7]), torch.tensor([5, 0, 9]))
    diagonal, line = lines(plot)
    assert diagonal == [(0, 0), (1, 1)]
    assert torch.tensor(line).allclose(torch.tensor([(0.1, 0.2), (0.9, 0.7)]))


def test_matrix_writes_counts_and_fractions_of_rows() -> None:
    counts = torch.tensor([[6, 2], [0, 0]])
    for normalize, expected in ((False, ["6", "2", "0", "0"]), (True, [".75", ".25"])):
        plot = matrix(counts, ["cat", "dog"], ["cat", "dog"], "confusion matrix", normalize=normalize)
        assert [text.get_text() for text in plot.figure.axes[0].texts] == expected  # a class without samples is empty
        label = "fraction of the row" if normalize else "count"
        assert {"cat", "dog", "predicted class", "true class", label} <= set(texts(plot))


def test_matrix_of_many_classes_has_no_texts_in_cells() -> None:
    names = [f"class {index}" for index in range(80)]
    plot = matrix(torch.eye(80), names, names)
    assert not plot.figure.axes[0].texts
    assert "class 0" not in texts(plot)


def test_plots_are_drawings_and_leave_settings_of_the_user() -> None:
    matplotlib.rcParams["font.size"] = 31
    try:
        points = torch.tensor([[0.0, 1.0], [1.0, 2.0]])
        plot = curves([points], ["a"], "costs $5, not $6")
        assert isinstance(plot, Drawing)
        assert "costs $5, not $6" in texts(plot)
        assert matplotlib.rcParams["font.size"] == 31
        matplotlib.rcParams["text.usetex"] = True  # would need TeX
        assert torch.equal(plot.raster(), curves([points], ["a"], "costs $5, not $6").raster())
    finally:
        matplotlib.rcdefaults()


def test_colours_are_distinct() -> None:
    for count in (0, 1, 8, 9, 40):
        assert len({*class_colours(count)}) == count


def test_widths_of_templates() -> None:
    assert parse_width("iccv-column") * 72.27 == pytest.approx(237.13594, abs=0.01)  # \columnwidth of the author kit
    assert parse_width(" NeurIPS ") == 5.5
    assert parse_width("85") == parse_width("85 mm") == pytest.approx(3.346, abs=0.001)
    for wrong in ("", "wide", "0", "-3", "nan", "inf", "5000"):
        with pytest.raises(UsageError, match=r"width must be iccv-column, .* millimetres above 0"):
            parse_width(wrong)


def test_width_is_that_of_the_image() -> None:
    plot = curves([torch.tensor([[0.0, 1.0], [1.0, 2.0]])], ["a"], width=parse_width("iccv-column"))
    assert plot.raster().shape[2] == round(3.28125 * 144)


def test_matrix_of_many_classes_is_one_image(tmp_path: Path) -> None:
    """As vectors, a thousand classes took minutes and 20 MB, and the edges of the cells covered them in the PNG."""
    names = [str(index) for index in range(100)]
    plot = matrix(np.eye(100), names, names)
    plot.save(tmp_path / "matrix")
    svg = (tmp_path / "matrix.svg").read_text()
    assert (tmp_path / "matrix.svg").stat().st_size < 200_000
    assert svg.count("<image") <= 2  # cells and colour bar
    left, bottom, right, top = plot.figure.axes[0].dataLim.extents
    assert (left, right, sorted((bottom, top))) == (0, 100, [0, 100])
    assert plot.figure.axes[0].get_ylim() == (100, 0)


def test_matrix_without_a_finite_value_has_white_cells(tmp_path: Path) -> None:
    matrix([[float("nan")] * 2] * 2, ["a", "b"], ["a", "b"]).save(tmp_path / "matrix")
    assert (tmp_path / "matrix.pdf").is_file()


def test_long_names_are_wrapped_in_the_legend() -> None:
    plot = curves([[[0, 1], [1, 2]]], ["a long name of a method " * 4], width=WIDTHS["iccv-column"])
    plot.raster()
    assert plot.figure.axes[0].get_position().width > 0.3


def test_figures_do_not_log_the_tables_of_fonts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        curves([[[0, 1], [1, 2]]], ["a"]).save(tmp_path / "curve")
    assert not caplog.records
