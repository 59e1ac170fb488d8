"""Layout of grids and animations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.callbacks.plotting.animation import animate
from darkroom.callbacks.plotting.grids import contact_sheet, expand_to_rgb, image_grid, near_square, shorten, tile_size
from darkroom.callbacks.plotting.images import fit_size, resize, save
from darkroom.callbacks.plotting.style import load_font


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
    sheet = image_grid([images[:3], images[3:]], gap=2).raster()
    assert sheet.shape == (3, 2 * 60 + 2 + 20, 3 * 50 + 4 + 20)
    for index, image in enumerate(images):
        y, x = 10 + 62 * (index // 3), 10 + 52 * (index % 3)
        assert torch.equal(sheet[:, y : y + 60, x : x + 50], image)
    assert (sheet[:, 72:132, 114:] == 255).all()  # unused places are white


def test_names_heads_and_title_do_not_crop_images() -> None:
    images = expand_to_rgb(noise(4, 1, 48, 48))
    plain = image_grid([images[:2], images[2:]]).raster()
    full = image_grid([images[:2], images[2:]], ["small", "a long name"], ["-1", "+1"], "a title" * 20).raster()
    left = next(x for x in range(full.shape[2]) if torch.equal(full[:, 52:100, x : x + 48], images[0]))
    assert torch.equal(full[:, 52:150, left : left + 98], plain[:, 10:108, 10:108])
    assert full.shape[2] > 500  # as wide as the title


def test_captions_are_below_their_images() -> None:
    images = noise(4, 3, 50, 60)
    sheet = image_grid([images[:2], images[2:]], captions=[(), ("cat", "a very long caption of a dog")]).raster()
    assert sheet.shape[1] == 20 + 2 * 50 + 2 + 18
    assert torch.equal(sheet[:, 62:112, 72:132], images[3])
    assert (sheet[:, 112:130, 72:132] < 200).any()
    font = load_font(11)
    assert shorten("cat", 60, font) == "cat"
    assert shorten("a very long caption", 60, font).endswith("…")
    assert font.getlength(shorten("a very long caption", 60, font)) <= 60
    assert shorten("cat", 2, font) == ""


def test_near_square_gives_balanced_columns() -> None:
    assert [near_square(count) for count in (1, 2, 5, 9, 64, 65, 1000)] == [1, 2, 3, 3, 8, 9, 16]


def test_contact_sheet_accepts_mixed_image_sizes() -> None:
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((16, 16), (300, 200), (9, 40))]
    sheet = contact_sheet({"input": images, "truth": images}, {f"class number {i}": i for i in range(12)}).raster()
    assert sheet.dtype == torch.uint8
    assert sheet.shape[1] > 2 * 128
    assert sheet.shape[2] > 3 * 128
    enlarged = images[0].repeat_interleave(8, 1).repeat_interleave(8, 2)
    left = next(x for x in range(sheet.shape[2]) if torch.equal(sheet[:, 4:132, x : x + 128], enlarged))
    assert left > 0


def test_contact_sheet_keeps_prefitted_images() -> None:
    first, second = (torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((30, 40), (90, 31)))
    tile = fit_size(first, 64, 64)
    assert tile == (48, 64)
    fitted = [resize(image, fit_size(image, *tile)) for image in (first, second)]
    sheets = (contact_sheet({"a": images}, side=64).raster() for images in ([first, second], fitted))
    assert torch.equal(*sheets)


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
