"""Figures of tensors: colours of classes, overlays and error maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.callbacks.plotting.images import (
    colorize,
    contact_sheet,
    error_map,
    fit_size,
    overlay,
    palette,
    resize,
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


def test_contact_sheet_accepts_mixed_image_sizes() -> None:
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((16, 16), (300, 200), (9, 40))]
    sheet = contact_sheet({"input": images, "truth": images}, {f"class number {i}": i for i in range(12)})
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
    assert torch.equal(contact_sheet({"a": [first, second]}, side=64), contact_sheet({"a": fitted}, side=64))


def test_saved_masks_contain_class_ids(tmp_path: Path) -> None:
    mask = torch.tensor([[0, 1], [2, 255]])
    save_mask(mask, tmp_path / "deep/mask.png", 3)
    written = Image.open(tmp_path / "deep/mask.png")
    assert np.array_equal(np.array(written), mask.numpy())
    assert np.array_equal(np.array(written.convert("RGB")), colorize(mask, 3).permute(1, 2, 0).numpy())


def test_save_writes_exact_pixels(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    save(image, tmp_path / "a/b.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "a/b.png")), image.permute(1, 2, 0).numpy())
