"""Files that are read as images, and files that are refused."""

from pathlib import Path

import pytest
from PIL import Image

from darkroom.datamodules.io.image_files import list_images
from darkroom.datamodules.io.read_images import read_image
from darkroom.datamodules.io.read_mask import read_mask
from darkroom.errors import DataError


def frames(count: int) -> list[Image.Image]:
    return [Image.new("L", (20, 30), 8 * index) for index in range(count)]


@pytest.mark.parametrize("ending", ["tif", "webp", "png"])
def test_file_of_several_frames_is_refused_with_their_number(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"stack.{ending}"
    first, *others = frames(30)
    first.save(path, save_all=True, append_images=others)
    with pytest.raises(DataError, match=f"stack.{ending} has 30 frames; save each frame"):
        read_image(path)


def test_mask_of_several_pages_is_refused(tmp_path: Path) -> None:
    first, *others = frames(3)
    first.save(tmp_path / "mask.tif", save_all=True, append_images=others)
    with pytest.raises(DataError, match="mask.tif has 3 frames"):
        read_mask(tmp_path / "mask.tif")


@pytest.mark.parametrize("ending", ["tif", "webp", "png", "jpg", "bmp"])
def test_file_of_one_frame_is_read(tmp_path: Path, ending: str) -> None:
    Image.new("L", (20, 30), 100).save(tmp_path / f"one.{ending}")
    assert read_image(tmp_path / f"one.{ending}").size == (20, 30)


def test_smaller_pages_of_a_pyramid_are_no_frames(tmp_path: Path) -> None:
    Image.new("L", (20, 30)).save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("L", (10, 15))])
    assert read_image(tmp_path / "a.tif").size == (20, 30)


def test_hidden_files_are_not_listed(tmp_path: Path) -> None:
    """macOS writes ._NAME beside every file on foreign disks."""
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"Mac OS X")
    assert [path.name for path in list_images(tmp_path)] == ["a.png"]
