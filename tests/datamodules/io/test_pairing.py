"""Lists of splits, as tools write them."""

from pathlib import Path

import pytest
from PIL import Image

from darkroom.datamodules.io.pairing import pair_by_list, read_split_list
from darkroom.errors import DataError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a\nb\n", ["a", "b"]),
        ("\ufeffa\r\nb\r\n\r\n", ["a", "b"]),  # a byte order mark and Windows' line ends
        ("a 1\nb -1\nc  0\n", ["a", "b", "c"]),  # VOC's list of a class
        ("Abyssinian_1 1 1 1\n", ["Abyssinian_1"]),  # Oxford-IIIT Pet
        ("my photo\nfolder/b\n", ["my photo", "folder/b"]),
        ("a.jpg\nb.PNG\nv1.2\n", ["a", "b", "v1.2"]),
    ],
)
def test_names_of_a_list(tmp_path: Path, text: str, names: list[str]) -> None:
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    assert read_split_list(tmp_path / "train.txt") == names


def test_name_listed_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\nb\na\n")
    with pytest.raises(DataError, match=r"train.txt lists a more than once"):
        read_split_list(tmp_path / "train.txt")


def test_listed_images_may_have_any_format(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a.jpg", "b.JPG", "c.png"):
        Image.new("L", (4, 4)).save(tmp_path / "images" / name)
        Image.new("L", (4, 4)).save(tmp_path / "masks" / f"{name[0]}.png")
    (tmp_path / "all.txt").write_text("a\nb\nc\n")
    pairs = pair_by_list(tmp_path / "all.txt", tmp_path / "images", tmp_path / "masks")
    assert [image.name for image, _ in pairs] == ["a.jpg", "b.JPG", "c.png"]
