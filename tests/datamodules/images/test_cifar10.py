"""CIFAR10: decoding of rows, and pickles that cannot run code."""

import hashlib
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import datasets

from darkroom.datamodules.images.cifar10 import CIFAR10, FOLDER
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import LabelledDataContract
from tests.fakes.labelled import cifar10


class TestCIFAR10(LabelledDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> CIFAR10:
        return CIFAR10(root=str(cifar10(tmp_path)), **kwargs)

    def test_rows_are_red_green_and_blue_planes(self, data: CIFAR10) -> None:
        with (data.root / FOLDER / "test_batch").open("rb") as file:
            batch = pickle.load(file)
        dataset = data.dataset("test")
        assert dataset.images[3, 1, 0, 1] == batch["data"][3, 1024 + 1]
        assert dataset.images[3, 2, 31, 0] == batch["data"][3, 2048 + 31 * 32]
        assert dataset.labels.tolist() == batch["labels"]

    def test_all_batches_are_split_into_train_and_val(self, data: CIFAR10) -> None:
        assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [36, 4, 8]

    def test_flips_apply_only_to_training(self, data: CIFAR10) -> None:
        grey, train = data.dataset("train")[0]["image"], data._datasets["train"]
        seen = {train[epoch, 0]["image"].numpy().tobytes() for epoch in range(20)}
        assert seen == {grey.numpy().tobytes(), grey.flip(-1).contiguous().numpy().tobytes()}
        assert torch.equal(data._datasets["val"][5, 0]["image"], data.dataset("val")[0]["image"])

    def test_images_are_resized(self, data: CIFAR10) -> None:
        large = CIFAR10(root=str(data.root), size=64)
        assert large.image_shape == (3, 64, 64)
        images = large.dataset("test").images
        assert images.shape == (8, 3, 64, 64)
        assert abs(images.float().mean() - data.dataset("test").images.float().mean()) < 1


class _Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("was_here",)


def test_pickle_that_runs_code_raises(tmp_path: Path) -> None:
    path = cifar10(tmp_path) / FOLDER / "data_batch_3"
    path.write_bytes(pickle.dumps({"data": _Evil(), "labels": []}))
    with pytest.raises(DataError, match="data_batch_3 cannot be read as a batch of CIFAR-10 .*mkdir instead of arrays"):
        CIFAR10(root=str(tmp_path)).setup("fit")
    assert not Path("was_here").exists()


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_unreadable_batch_is_named(tmp_path: Path, damage: str) -> None:
    path = cifar10(tmp_path) / FOLDER / "test_batch"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut short":
        path.write_bytes(content[:1000])
    said = {"missing": "does not exist", "cut short": "cannot be read"}[damage]
    with pytest.raises(DataError, match=rf"test_batch {said}.*cifar-10-python.tar.gz: --data.download true"):
        CIFAR10(root=str(tmp_path)).setup("test")


def test_download_verifies_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the archive at the place of the download, without network access."""
    source = cifar10(tmp_path / "source")
    packed = Path(shutil.make_archive(str(tmp_path / "data/cifar-10-python"), "gztar", source, FOLDER))
    data = CIFAR10(root=str(tmp_path / "data"), download=True)
    with pytest.raises(DataError, match="cifar-10-python.tar.gz has the md5"):
        data.prepare_data()
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(packed.read_bytes()).hexdigest())
    data.prepare_data()
    assert len(data.dataset("test")) == 8


def test_val_fraction_of_zero_raises() -> None:
    with pytest.raises(UsageError, match="data.val_fraction must be between 0 and 1, got 0"):
        CIFAR10(val_fraction=0)
