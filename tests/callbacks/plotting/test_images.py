"""Figures of tensors: colours of classes, overlays and error maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.callbacks.plotting.images import (
    colorize,
    error_map,
    heat_colours,
    overlay,
    overlay_heat,
    palette,
    save,
    save_mask,
    to_uint8_rgb,
)


def test_palette_has_distinct_colours() -> None:
    colours = palette(60)[:60]
    assert len(colours.unique(dim=0)) == 60
    assert torch.equal(palette(3)[:3], colours[:3])  # independent of the number of classes


def test_overlay_leaves_background_and_ignored_pixels_clear() -> None:
    image = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    rendered = overlay(image, torch.tensor([[0, 1, 255]]), 2)
    assert torch.equal(rendered[:, :, [0, 2]], image[:, :, [0, 2]])
    assert not torch.equal(rendered[:, :, 1], image[:, :, 1])


def test_overlay_colours_class_0_without_background() -> None:
    image = torch.full((3, 1, 2), 100, dtype=torch.uint8)
    assert not torch.equal(overlay(image, torch.tensor([[0, 0]]), 2, background=None), image)


def test_error_map_marks_wrong_pixels_red() -> None:
    image = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    rendered = error_map(image, torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 255]]))
    red = (rendered[0].int() - rendered[1].int()) > 100
    assert red.tolist() == [[False, True, False]]


@pytest.mark.parametrize("channels", [1, 3])
def test_to_uint8_rgb_rounds(channels: int) -> None:
    assert to_uint8_rgb(torch.full((channels, 2, 2), 0.999)).unique().tolist() == [255]


def test_saved_masks_contain_class_ids(tmp_path: Path) -> None:
    mask = torch.tensor([[0, 1], [2, 255]])
    save_mask(mask, tmp_path / "deep/mask.png", 3)
    written = Image.open(tmp_path / "deep/mask.png")
    assert np.array_equal(np.array(written), mask.numpy())
    assert np.array_equal(np.array(written.convert("RGB")), colorize(mask, 3).permute(1, 2, 0).numpy())


def test_heat_map_is_perceptually_uniform_and_darkens_cold_places() -> None:
    brightness = heat_colours(torch.linspace(0, 1, 11)[None])[:, 0].mul(torch.tensor([0.3, 0.59, 0.11])[:, None]).sum(0)
    assert (brightness.diff() > 5).all()
    image = torch.full((3, 4, 8), 100, dtype=torch.uint8)
    heat = overlay_heat(image, torch.tensor([[0.0, 1.0]])).float().mean(0)
    assert heat[:, 0].max() < 60 < heat[:, -1].min()


def test_save_writes_exact_pixels(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    save(image, tmp_path / "a/b.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "a/b.png")), image.permute(1, 2, 0).numpy())
