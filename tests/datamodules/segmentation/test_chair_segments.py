"""ChairSegments: threshold of masks, numeric order, optional test folder and download."""

import hashlib
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.datamodules.segmentation import chair_segments
from darkroom.datamodules.segmentation.chair_segments import ChairSegments, read_chair_mask
from darkroom.errors import DataError
from tests.contracts.datamodule import SegmentationDataContract
from tests.fakes import pictures


class TestChairSegments(SegmentationDataContract):
    val_is_test = True

    def build(self, tmp_path: Path, **kwargs: Any) -> ChairSegments:
        return ChairSegments(root=str(pictures.chair_segments(tmp_path / "data")), **kwargs)

    def test_files_are_in_numeric_order(self, data: ChairSegments) -> None:
        assert [path.name for path in data.dataset("train").paths] == [f"{index}.jpg" for index in range(11)]

    def test_default_has_full_images_of_two_classes(self, data: ChairSegments) -> None:
        assert (data.image_shape, data.class_names) == ((3, 64, 64), ("background", "chair"))
        assert {value for sample in data.dataset("val") for value in sample["mask"].unique().tolist()} == {0, 1}

    def test_dataset_can_be_pickled(self, data: ChairSegments) -> None:
        dataset = data.dataset("train")
        assert torch.equal(pickle.loads(pickle.dumps(dataset))[3]["mask"], dataset[3]["mask"])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_foreground_threshold_is_two_fifths(tmp_path: Path, mode: str) -> None:
    values = np.array([[0, 102, 103, 255]], np.uint8)
    rgb = np.stack([values, 255 - values, values * 0], axis=-1)
    Image.fromarray(values if mode == "L" else rgb).save(tmp_path / "0.png")
    assert np.asarray(read_chair_mask(tmp_path / "0.png")).tolist() == [[0, 0, 1, 1]]


def test_optional_test_folder_is_used(tmp_path: Path) -> None:
    pictures.chair_segments(tmp_path, ("train", "val", "test"), count=2)
    data = ChairSegments(root=str(tmp_path))
    assert {path.parts[-3] for path in data.dataset("test").paths} == {"test"}


def test_missing_folder_names_download_option(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Chair064 does not exist.*/Chair064.zip: --data.download true"):
        ChairSegments(root=str(tmp_path)).setup("fit")


def test_non_numeric_file_name_raises(tmp_path: Path) -> None:
    folder = pictures.chair_segments(tmp_path) / "Chair064/train"
    for role in ("image", "mask"):
        (folder / role / "3.jpg").rename(folder / role / "three.jpg")
    with pytest.raises(DataError, match="three.jpg: the name must be a number"):
        ChairSegments(root=str(tmp_path)).setup("fit")


# --- download: an existing root/Chair064.zip is used without network access -------------------------------------------


def archive(tmp_path: Path, without: str = "") -> Path:
    source = pictures.chair_segments(tmp_path / "source")
    if without:
        (source / without).unlink()
    (tmp_path / "data").mkdir()
    return Path(shutil.make_archive(str(tmp_path / "data/Chair064"), "zip", source))


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(chair_segments, "URL", "http://127.0.0.1:9/Chair064.zip")


def test_download_verifies_checksum(tmp_path: Path) -> None:
    right = hashlib.sha256(archive(tmp_path).read_bytes()).hexdigest()
    with pytest.raises(DataError, match="Chair064.zip has the sha256"):
        ChairSegments(root=str(tmp_path / "data"), download=True, sha256="0" * 64).prepare_data()
    data = ChairSegments(root=str(tmp_path / "data"), download=True, sha256=right)
    for _ in range(2):
        data.prepare_data()
    assert len(data.dataset("train")) == 11


def test_archive_without_all_masks_raises(tmp_path: Path) -> None:
    archive(tmp_path, without="Chair064/val/mask/7.jpg")
    with pytest.raises(DataError, match="lack a partner: .*7.jpg has no mask"):
        ChairSegments(root=str(tmp_path / "data"), download=True).prepare_data()
    assert not (tmp_path / "data/Chair064").exists()


def test_download_is_opt_in(tmp_path: Path) -> None:
    ChairSegments(root=str(tmp_path)).prepare_data()
    with pytest.raises(DataError, match="cannot be downloaded"):
        ChairSegments(root=str(tmp_path), download=True).prepare_data()
