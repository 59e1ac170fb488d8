"""CelebA: official splits, one attribute as the class, centre crops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.datamodules.images.celeba import CelebA
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import LabelledDataContract
from tests.fakes.labelled import celeba


class TestCelebA(LabelledDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> CelebA:
        return CelebA(root=str(celeba(tmp_path)), attribute="Smiling", size=16, **kwargs)

    def test_official_splits_are_used(self, data: CelebA) -> None:
        names = {split: [int(path.stem) for path in data.dataset(split).paths] for split in ("train", "val", "test")}
        assert names == {"train": [1, 2, 3, 4, 5, 6], "val": [7, 8, 9], "test": [10, 11, 12]}

    def test_attribute_is_the_class(self, data: CelebA) -> None:
        assert data.class_names == ("not Smiling", "Smiling")
        for sample in data.dataset("train"):
            assert (sample["image"].float().mean() > 100) == bool(sample["label"])

    def test_limit_reduces_training_images(self, data: CelebA) -> None:
        few = CelebA(root=str(data.folder.parent), attribute="Smiling", limit=2).dataset("train")
        assert len(few) == 2
        assert {sample["path"] for sample in few} < {str(path) for path in data.dataset("train").paths}


def test_labels_need_an_attribute(tmp_path: Path) -> None:
    (celeba(tmp_path) / "celeba/list_attr_celeba.txt").unlink()
    data = CelebA(root=str(tmp_path))
    assert data.num_classes == 0
    assert data.image_shape == (3, 64, 64)
    assert data.dataset("test")[0].keys() == {"image", "path"}


def test_center_square_is_cropped(tmp_path: Path) -> None:
    data = CelebA(root=str(celeba(tmp_path)), size=178)
    path = data.dataset("test").paths[0]
    expected = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[:, 20:198]
    assert torch.equal(data.dataset("test")[0]["image"], expected)


def test_unknown_attribute_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data.attribute must be one of Bald, Smiling, Young, got smiling"):
        CelebA(root=str(celeba(tmp_path)), attribute="smiling").setup("fit")


@pytest.mark.parametrize("missing", ["list_eval_partition.txt", "list_attr_celeba.txt", "img_align_celeba"])
def test_missing_file_names_download_page(tmp_path: Path, missing: str) -> None:
    path = celeba(tmp_path) / "celeba" / missing
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"celeba/{missing} does not exist.*https://mmlab.ie.cuhk.edu.hk"):
        CelebA(root=str(tmp_path), attribute="Smiling").setup("fit")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("eval_partition", "", "line 1: must be a file's name and 0 .train., 1 .val. or 2 .test."),
        ("eval_partition", "000001.jpg 0\n\n000002.jpg\n", "line 3: must be"),
        ("eval_partition", "000001.jpg 0 1\n", "line 1: must be"),
        ("eval_partition", "000001.jpg train\n", "line 1: must be"),
        ("attr_celeba", "", "line 1: must be the number of images, and line 2 the names"),
        ("attr_celeba", "Bald Smiling Young\n000001.jpg 1 1 1\n", "line 1: must be"),
        (
            "attr_celeba",
            "2\nBald Smiling\n000001.jpg 1 1\n000002.jpg 1\n",
            "line 4: must be a file's name and 2 times 1 or -1",
        ),
        ("attr_celeba", "1\nBald Smiling\n000001.jpg 1 ?\n", "line 3: must be"),
        (
            "attr_celeba",
            "1\nBald Smiling\n000001.jpg 1 1\n",
            "has no line for 000002.jpg, which list_eval_partition.txt",
        ),
    ],
)
def test_damaged_list_names_file_and_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = celeba(tmp_path) / f"celeba/list_{name}.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"{path.name}.*{message}"):
        CelebA(root=str(tmp_path), attribute="Smiling").setup("fit")


def test_missing_image_is_named(tmp_path: Path) -> None:
    (celeba(tmp_path) / "celeba/img_align_celeba/000010.jpg").unlink()
    with pytest.raises(DataError, match="000010.jpg does not exist"):
        CelebA(root=str(tmp_path)).dataset("test")[0]


def test_failed_download_names_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("To download files from GDrive, 'gdown' is required.")

    monkeypatch.setattr("darkroom.datamodules.images.celeba.datasets.CelebA", fail)
    with pytest.raises(DataError, match=r"'gdown' is required.*pip install gdown.*with a browser from https://mmlab"):
        CelebA(root=str(tmp_path), download=True).prepare_data()
    CelebA(root=str(celeba(tmp_path / "there")), download=True).prepare_data()
