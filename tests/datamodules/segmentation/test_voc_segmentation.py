"""VOCSegmentation: lists, ignored values, missing files, masks of SBD and downloads."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.io import loadmat, savemat
from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT

from darkroom.datamodules.segmentation.voc_segmentation import VOCSegmentation
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import SegmentationDataContract
from tests.fakes.pictures import voc, voc2012, voc2012_sbd


class TestVOCSegmentation(SegmentationDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> VOCSegmentation:
        voc(tmp_path / "data")
        names = ["building", "land", "road", "vegetation", "water"]
        return VOCSegmentation(
            root=str(tmp_path / "data"),
            year="2007",
            test_list="test",
            class_names=names,
            ignore_values=(5, 255),
            crop=32,
            **kwargs,
        )

    def test_unlabeled_is_ignored(self, data: VOCSegmentation) -> None:
        mask = data.dataset("val")[0]["mask"]
        assert (mask[:4] == 255).all()
        assert (mask[4:] < 5).all()


def test_default_classes_are_those_of_voc() -> None:
    data = VOCSegmentation()
    assert (data.num_classes, data.class_names[0], data.class_names[15]) == (21, "background", "person")


@pytest.mark.parametrize(
    "missing", ["VOCdevkit", "ImageSets/Segmentation/val.txt", "JPEGImages/val_1.jpg", "SegmentationClass/val_2.png"]
)
def test_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    if missing != "VOCdevkit":
        voc(tmp_path)
        (tmp_path / "VOCdevkit/VOC2007" / missing).unlink()
    data = VOCSegmentation(root=str(tmp_path), year="2007")
    with pytest.raises(DataError, match=f"{missing}.* does not exist"):
        data.setup("validate")


# --- SBD --------------------------------------------------------------------------------------------------------------


class TestWithSBD(SegmentationDataContract):
    val_is_test = True

    def build(self, tmp_path: Path, **kwargs: Any) -> VOCSegmentation:
        return VOCSegmentation(root=str(voc2012_sbd(tmp_path / "data")), sbd_root=".", crop=32, **kwargs)

    def test_sbd_extends_training_without_validation_images(self, data: VOCSegmentation) -> None:
        pairs = {image.stem: mask for image, mask in data.pairs("train")}
        assert list(pairs) == ["train_0", "train_1", "train_2", "train_3", "sbd_0", "sbd_1", "sbd_2"]
        assert [mask.suffix for mask in pairs.values()] == [".png"] * 4 + [".mat"] * 3  # masks of VOC take precedence
        assert {mask.suffix for _, mask in data.pairs("val")} == {".png"}

    def test_mat_masks_contain_voc_classes(self, data: VOCSegmentation) -> None:
        sample, (_, mask) = data.dataset("train")[4], data.pairs("train")[4]
        expected = loadmat(mask, simplify_cells=True)["GTcls"]["Segmentation"]
        assert torch.equal(sample["mask"], torch.from_numpy(expected.copy()))
        assert sample["mask"].max() > 9


@pytest.mark.parametrize(("lists", "added"), [(["train"], {"sbd_0", "sbd_1"}), (["train_noval"], {"sbd_0"})])
def test_sbd_lists_can_be_chosen(tmp_path: Path, lists: list[str], added: set[str]) -> None:
    voc2012_sbd(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "benchmark_RELEASE").rename(tmp_path / "elsewhere/benchmark_RELEASE")
    data = VOCSegmentation(root=str(tmp_path), sbd_root="elsewhere", sbd_lists=lists)
    assert {image.stem for image, mask in data.pairs("train") if mask.suffix == ".mat"} == added


def test_missing_sbd_names_download_option(tmp_path: Path) -> None:
    data = VOCSegmentation(root=str(voc2012(tmp_path)), sbd_root=".")
    with pytest.raises(DataError, match="benchmark_RELEASE does not exist.*data.sbd_root.*--data.download true"):
        data.setup("fit")


@pytest.mark.parametrize("broken", [b"no matlab file", None])
def test_broken_mat_file_is_named(tmp_path: Path, broken: bytes | None) -> None:
    data = VOCSegmentation(root=str(voc2012_sbd(tmp_path)), sbd_root=".")
    path = tmp_path / "benchmark_RELEASE/dataset/cls/sbd_0.mat"
    path.write_bytes(broken) if broken else savemat(path, {"GTinst": 1})
    with pytest.raises(DataError, match="sbd_0.mat cannot be read as a mask of SBD"):
        data.dataset("train")[4]


# --- download: the archives are at the place of the download, without network access ----------------------------------


def test_download_verifies_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, root = voc2012_sbd(tmp_path / "source"), tmp_path / "data"
    year = DATASET_YEAR_DICT["2012"]
    voc_tar = shutil.make_archive(str(root / "VOCdevkit" / Path(year["url"]).stem), "tar", source, "VOCdevkit")
    sbd_tar = shutil.make_archive(str(root / "benchmark"), "gztar", source, "benchmark_RELEASE")
    sbd_tar = Path(sbd_tar).rename(root / "benchmark.tgz")
    data = VOCSegmentation(root=str(root), sbd_root=".", download=True)
    with pytest.raises(DataError, match=f"VOCtrainval_11-May-2012.tar has the md5 .* instead of {year['md5']}"):
        data.prepare_data()
    monkeypatch.setitem(year, "md5", hashlib.md5(Path(voc_tar).read_bytes()).hexdigest())
    monkeypatch.setattr(SBDataset, "md5", hashlib.md5(sbd_tar.read_bytes()).hexdigest())
    data.prepare_data()
    data.setup("fit")
    assert len(data.dataset("train")) == 7


def test_year_without_download_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data.year must be one of 2007, .*2012 with data.download, got 1999"):
        VOCSegmentation(year="1999", download=True)
    with pytest.raises(DataError, match="VOC1999 does not exist.* check data.root and data.year"):
        VOCSegmentation(root=str(tmp_path), year="1999").setup("fit")
    with pytest.raises(DataError, match="VOC2012 does not exist.*--data.download true"):
        VOCSegmentation(root=str(tmp_path)).setup("fit")
