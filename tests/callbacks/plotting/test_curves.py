"""Curves: positions of points on linear and logarithmic axes."""

import math

import pytest
import torch
from torch import Tensor

from darkroom.callbacks.plotting.axes import class_colour, round_numbers, round_powers
from darkroom.callbacks.plotting.curves import _fade, curves


def centre_of(sheet: Tensor, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Mean x and y of the pixels of a colour within the plot, from its upper left corner."""
    plot = sheet[:, 58:458, 50:690].int()
    found = ((plot - torch.tensor(colour).view(3, 1, 1)).abs().sum(0) < 60).nonzero().float()
    return found[:, 1].mean().item(), found[:, 0].mean().item()


def dots(*places: tuple[float, float], **kwargs: bool) -> list[tuple[float, float]]:
    """Plot curves of one point each and return the positions of the points."""
    sheet = curves([torch.tensor([place]) for place in places], [""] * len(places), "title", **kwargs)
    return [centre_of(sheet, class_colour(index, len(places))) for index in range(len(places))]


def test_points_are_plotted_at_their_coordinates() -> None:
    (x0, y0), (x1, y1), (x2, y2) = dots((0, 0), (10, 5), (5, 1))
    assert (x1 - x0, y0 - y1) == pytest.approx((640 / 1.08, 400 / 1.08), abs=2)
    assert (x2 - x0, y0 - y2) == pytest.approx((320 / 1.08, 80 / 1.08), abs=2)


def test_logarithmic_axes_map_ratios_to_distances() -> None:
    (x0, y0), (x1, y1), (x2, y2) = dots((1, 1e-4), (10, 1e-2), (100, 1), log_x=True, log_y=True)
    assert (x1 - x0, y0 - y1) == pytest.approx((x2 - x1, y1 - y2), abs=2)
    assert x2 - x0 == pytest.approx(640 / 1.08, abs=2)


def test_invalid_points_are_skipped() -> None:
    whole = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    for bad in (math.nan, math.inf, 0.0, -1.0):
        broken = torch.tensor([[0.0, 1.0], [1.0, bad], [2.0, 3.0]])
        assert torch.equal(*(curves([points], ["a"], "", log_y=True) for points in (whole, broken)))


def test_history_fades_old_curves() -> None:
    darkness = [sum(_fade(index, 5)) for index in range(5)]
    assert darkness == sorted(darkness, reverse=True)
    assert darkness[3] - darkness[4] > darkness[0] - darkness[3]  # the newest stands out
    series = [torch.tensor([[0.0, 1.0], [1.0, height]]) for height in (3.0, 2.0)]
    sheet = curves(series, ["old", "new"], "", history=True)
    assert sheet[:, 68, 706].tolist() == list(_fade(1, 2))


@pytest.mark.parametrize(
    "series", [[], [torch.empty(0, 2)], [torch.full((3, 2), math.nan)], [torch.tensor([[7.0, 7.0]])]]
)
@pytest.mark.parametrize("log", [False, True])
def test_curves_plots_empty_and_nan_series(series: list[Tensor], log: bool) -> None:
    sheet = curves(series, ["a"] * len(series), "title", ("x", "y"), log_x=log, log_y=log)
    assert sheet.dtype == torch.uint8
    assert sheet.shape[0] == 3


def test_ticks_are_round_numbers() -> None:
    assert round_numbers(-0.1, 1.1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert round_powers(0.0008, 2) == [0.001, 0.01, 0.1, 1]
    assert round_powers(3, 60) == [5, 10, 20, 50]
    assert round_powers(3.1, 3.4) == round_numbers(3.1, 3.4)
