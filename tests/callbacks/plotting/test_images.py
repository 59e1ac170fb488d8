"""Pictures of tensors: colours mean what the legend says."""

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


def test_every_class_has_its_own_colour() -> None:
    colours = palette(60)[:60]
    assert len(colours.unique(dim=0)) == 60
    assert torch.equal(palette(3)[:3], colours[:3])  # and keeps it whatever the number of classes


def test_overlay_leaves_background_and_ignored_pixels_clear() -> None:
    picture = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    drawn = overlay(picture, torch.tensor([[0, 1, 255]]), 2)
    assert torch.equal(drawn[:, :, [0, 2]], picture[:, :, [0, 2]])
    assert not torch.equal(drawn[:, :, 1], picture[:, :, 1])


def test_overlay_shows_every_class_where_there_is_no_background() -> None:
    picture = torch.full((3, 1, 2), 100, dtype=torch.uint8)
    assert not torch.equal(overlay(picture, torch.tensor([[0, 0]]), 2, background=None), picture)


def test_error_map_is_red_where_wrong() -> None:
    picture = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    drawn = error_map(picture, torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 255]]))
    red = (drawn[0].int() - drawn[1].int()) > 100
    assert red.tolist() == [[False, True, False]]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_round(channels: int) -> None:
    assert to_uint8_rgb(torch.full((channels, 2, 2), 0.999)).unique().tolist() == [255]


def test_contact_sheet_holds_pictures_of_any_size() -> None:
    pictures = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((16, 16), (300, 200), (9, 40))]
    sheet = contact_sheet({"input": pictures, "truth": pictures}, {f"class number {i}": i for i in range(12)})
    assert sheet.dtype == torch.uint8
    assert sheet.shape[1] > 2 * 128
    assert sheet.shape[2] > 3 * 128
    enlarged = pictures[0].repeat_interleave(8, 1).repeat_interleave(8, 2)
    left = next(x for x in range(sheet.shape[2]) if torch.equal(sheet[:, 4:132, x : x + 128], enlarged))
    assert left > 0


def test_contact_sheet_leaves_alone_what_was_made_to_fit() -> None:
    first, second = (torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((30, 40), (90, 31)))
    tile = fit_size(first, 64, 64)
    assert tile == (48, 64)
    fitted = [resize(picture, fit_size(picture, *tile)) for picture in (first, second)]
    assert torch.equal(contact_sheet({"a": [first, second]}, side=64), contact_sheet({"a": fitted}, side=64))


def test_saved_masks_hold_the_classes(tmp_path: Path) -> None:
    mask = torch.tensor([[0, 1], [2, 255]])
    save_mask(mask, tmp_path / "deep/mask.png", 3)
    written = Image.open(tmp_path / "deep/mask.png")
    assert np.array_equal(np.array(written), mask.numpy())
    assert np.array_equal(np.array(written.convert("RGB")), colorize(mask, 3).permute(1, 2, 0).numpy())


def test_save_writes_what_it_was_given(tmp_path: Path) -> None:
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    save(picture, tmp_path / "a/b.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "a/b.png")), picture.permute(1, 2, 0).numpy())
