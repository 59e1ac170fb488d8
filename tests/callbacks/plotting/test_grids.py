"""Layout of grids, scatter plots and animations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from darkroom.callbacks.plotting.animation import animate
from darkroom.callbacks.plotting.grids import expand_to_rgb, image_grid, near_square, shorten, tile_size
from darkroom.callbacks.plotting.images import save
from darkroom.callbacks.plotting.scatter import class_colour, scatter


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("size", "columns", "shown"),
    [((28, 28), 8, (56, 56)), ((64, 64), 8, (64, 64)), ((10, 24), 4, (20, 48)), ((512, 256), 10, (256, 128))],
)
def test_small_tiles_are_enlarged_by_integers_and_large_ones_reduced(
    size: tuple[int, int], columns: int, shown: tuple[int, int]
) -> None:
    assert tile_size(*size, columns) == shown


def test_image_grid_places_every_image() -> None:
    images = noise(5, 3, 60, 50)
    sheet = image_grid([images[:3], images[3:]], gap=2)
    assert sheet.shape == (3, 2 * 60 + 2 + 20, 3 * 50 + 4 + 20)
    for index, image in enumerate(images):
        y, x = 10 + 62 * (index // 3), 10 + 52 * (index % 3)
        assert torch.equal(sheet[:, y : y + 60, x : x + 50], image)
    assert (sheet[:, 72:132, 114:] == 255).all()  # unused places are white


def test_names_heads_and_title_do_not_crop_images() -> None:
    images = expand_to_rgb(noise(4, 1, 48, 48))
    plain = image_grid([images[:2], images[2:]])
    full = image_grid([images[:2], images[2:]], ["small", "a long name"], ["-1", "+1"], "a title" * 20)
    left = next(x for x in range(full.shape[2]) if torch.equal(full[:, 52:100, x : x + 48], images[0]))
    assert torch.equal(full[:, 52:150, left : left + 98], plain[:, 10:108, 10:108])
    assert full.shape[2] > 500  # as wide as the title


def test_captions_are_below_their_images() -> None:
    images = noise(4, 3, 50, 60)
    sheet = image_grid([images[:2], images[2:]], captions=[(), ("cat", "a very long caption of a dog")])
    assert sheet.shape[1] == 20 + 2 * 50 + 2 + 18
    assert torch.equal(sheet[:, 62:112, 72:132], images[3])
    assert (sheet[:, 112:130, 72:132] < 200).any()
    font = ImageFont.load_default(12)
    assert shorten("cat", 60, font) == "cat"
    assert shorten("a very long caption", 60, font).endswith("…")
    assert font.getlength(shorten("a very long caption", 60, font)) <= 60
    assert shorten("cat", 2, font) == ""


def test_near_square_gives_balanced_columns() -> None:
    assert [near_square(count) for count in (1, 2, 5, 9, 64, 65, 1000)] == [1, 2, 3, 3, 8, 9, 16]


def centre_of(sheet: torch.Tensor, label: int) -> tuple[float, float]:
    """Mean x and y of the pixels of a class in the plot, which is left of the legend."""
    plot = sheet[:, 59:575, 52:568].int()
    found = ((plot - torch.tensor(class_colour(label, 3)).view(3, 1, 1)).abs().sum(0) < 120).nonzero().float()
    return found[:, 1].mean().item(), found[:, 0].mean().item()


def test_scatter_places_points_in_class_colours() -> None:
    points = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    sheet = scatter(points, torch.tensor([0, 1, 2]), ("", "", ""), "title", ("x", "y"))
    (x0, y0), (x1, y1), (x2, y2) = (centre_of(sheet, label) for label in range(3))
    assert x1 - x0 == pytest.approx(520 / 1.06, abs=3)  # to the right, and both axes at one scale
    assert y0 - y2 == pytest.approx(520 / 1.06, abs=3)  # up
    assert (abs(y1 - y0), abs(x2 - x0)) == pytest.approx((0, 0), abs=1)


@pytest.mark.parametrize("points", [torch.zeros(1, 2), torch.full((5, 2), 1e-9), torch.randn(50, 2) * 1e6])
def test_scatter_plots_degenerate_points_without_labels(points: torch.Tensor) -> None:
    assert scatter(points, None, (), "title").shape[0] == 3


def test_scatter_omits_legend_for_many_classes() -> None:
    points = torch.randn(60, 2)
    few, many = (scatter(points, torch.arange(60) % count, (), "") for count in (12, 40))
    assert few.shape[2] > many.shape[2]


def test_animation_limits_frames_and_skips_other_sizes(tmp_path: Path) -> None:
    frames = []
    for step in range(9):
        frames.append(tmp_path / f"{step}.png")
        colour = torch.tensor([25 * step, 0, 100], dtype=torch.uint8).view(3, 1, 1)
        save(colour.expand(3, 200, 100 if step != 1 else 90), frames[-1])
    animate(frames, [f"step {step}" for step in range(9)], tmp_path / "a.gif", most_frames=4, most_side=80)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size) == (4, (40, 80 + 26))
        reds, times = [], []
        for index in range(4):
            gif.seek(index)
            reds.append(int(np.array(gif.convert("RGB"))[10, 10, 0]))
            times.append(gif.info["duration"])
    assert (reds[0], reds[-1]) == pytest.approx((0, 200), abs=3)  # first and last are among them
    assert reds == sorted(reds)
    assert times[-1] > 4 * times[0]


def test_animation_crops_title_and_limits_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [tmp_path / f"{step}.png" for step in range(6)]
    for frame in frames:
        save(noise(3, 324, 300), frame)
    animate(frames, ["x"] * 6, tmp_path / "a.gif", skip=24)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.size == (300, 300 + 26)
    monkeypatch.setattr("darkroom.callbacks.plotting.animation._MOST_BYTES", 100_000)
    animate(frames, ["x"] * 6, tmp_path / "a.gif", skip=24)
    assert (tmp_path / "a.gif").stat().st_size <= 100_000
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 6


def test_grey_images_are_saved_as_grey(tmp_path: Path) -> None:
    picture = noise(1, 5, 7)
    save(picture, tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.array(image), picture[0].numpy())
