"""ImageFolder: every layout that users have, and a clear word on the ones that mean nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.datamodules.images.image_folder import ImageFolder
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import LabelledDataContract
from tests.fakes.labelled import flat_folder, image_folder, split_image_folder


class TestClassesByChance(LabelledDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ImageFolder:
        return ImageFolder(root=str(image_folder(tmp_path)), size=16, **kwargs)

    def test_every_picture_is_in_one_split(self, data: ImageFolder) -> None:
        paths = {split: set(data.dataset(split).paths) for split in ("train", "val", "test")}
        assert {split: len(found) for split, found in paths.items()} == {"train": 16, "val": 2, "test": 2}
        assert len(set.union(*paths.values())) == 20

    def test_a_class_is_its_folder(self, data: ImageFolder) -> None:
        assert data.class_names == ("cats", "dogs")
        for sample in data.dataset("train"):
            assert data.class_names[sample["label"]] == Path(sample["path"]).parent.name


class TestSplitsByFolder(LabelledDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ImageFolder:
        return ImageFolder(root=str(split_image_folder(tmp_path)), size=16, channels=1, **kwargs)

    def test_splits_are_the_folders(self, data: ImageFolder) -> None:
        for split in ("train", "val", "test"):
            assert {path.parents[1].name for path in data.dataset(split).paths} == {split}


def test_splits_without_a_folder_are_drawn_from_training(tmp_path: Path) -> None:
    data = ImageFolder(root=str(split_image_folder(tmp_path, ("train", "test"))), val_fraction=0.25)
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [6, 2, 8]
    assert not set(data.dataset("train").paths) & set(data.dataset("val").paths)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    data = ImageFolder(root=str(flat_folder(tmp_path / "images")), size=32, batch_size=4, num_workers=0)
    assert data.num_classes == 0
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.keys() == {"image", "path"}
    assert batch["image"].shape == (4, 3, 32, 32)


def test_pictures_are_read_as_they_were_meant(tmp_path: Path) -> None:
    """16 bits, alpha, and a photo on its side."""
    Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((8, 8, 4), (255, 255, 255, 0), np.uint8)).save(tmp_path / "glass.png")
    turned, exif = np.zeros((8, 8, 3), np.uint8), Image.Exif()
    turned[:4] = 255
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    Image.fromarray(turned).save(tmp_path / "photo.png", exif=exif)
    data = ImageFolder(root=str(tmp_path), size=8, val_fraction=0, test_fraction=0)
    deep, glass, photo = (sample["image"] for sample in data.dataset("train"))
    assert (deep == 128).all()
    assert (glass == 0).all()
    assert (photo[:, :, 4:] == 255).all()
    assert (photo[:, :, :4] == 0).all()


def test_the_middle_square_is_scaled(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    data = ImageFolder(root=str(tmp_path), size=10, val_fraction=0, test_fraction=0)
    assert torch.equal(data.dataset("train")[0]["image"], torch.full((3, 10, 10), 200, dtype=torch.uint8))


def test_limit_draws_from_all_classes(tmp_path: Path) -> None:
    data = ImageFolder(root=str(image_folder(tmp_path)), limit=8)
    assert len(data.dataset("train")) == 8
    assert set(data.dataset("train").labels) == {0, 1}


def test_layouts_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root is nowhere, which does not exist; .*\.png.*every class"):
        ImageFolder(root="nowhere").setup("fit")
    mixed = image_folder(tmp_path / "mixed")
    Image.new("RGB", (8, 8)).save(mixed / "stray.png")
    with pytest.raises(DataError, match=r"mixed holds images \(stray.png\) and folders \(cats\)"):
        ImageFolder(root=str(mixed)).setup("fit")
    untrained = split_image_folder(tmp_path / "untrained", ("test", "val"))
    with pytest.raises(DataError, match="holds a folder test but none named train"):
        ImageFolder(root=str(untrained)).setup("fit")
    other = split_image_folder(tmp_path / "other")
    (other / "val/cats").rename(other / "val/cows")
    with pytest.raises(DataError, match="val/cows is no class.*only cats, dogs"):
        ImageFolder(root=str(other)).setup("fit")
    empty = image_folder(tmp_path / "empty")
    (empty / "birds").mkdir()
    with pytest.raises(DataError, match="birds holds no images"):
        ImageFolder(root=str(empty)).setup("fit")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"nothing holds no images \(\.png.*data.root is .*nothing"):
        ImageFolder(root=str(tmp_path / "nothing")).setup("fit")


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    folder = flat_folder(tmp_path / "images")
    (folder / "picture0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="picture0.png cannot be read as an image"):
        list(ImageFolder(root=str(folder), val_fraction=0, test_fraction=0).dataset("train"))


def test_shares_must_leave_something(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data.*_fraction"):
        ImageFolder(val_fraction=0.5, test_fraction=0.5)
    root = str(image_folder(tmp_path))
    with pytest.raises(UsageError, match=r"data.val_fraction 0 leaves none of 20 images for val; .*/val"):
        ImageFolder(root=root, val_fraction=0).setup("fit")
    with pytest.raises(UsageError, match=r"data.test_fraction 0.01 leaves none of 20 images for test"):
        ImageFolder(root=root, test_fraction=0.01).setup("predict")


def test_a_split_must_have_the_classes_of_training(tmp_path: Path) -> None:
    root = split_image_folder(tmp_path, ("train",))
    flat_folder(root / "val")
    with pytest.raises(DataError, match=r"val holds no folders of images, as train does, \(\.png"):
        ImageFolder(root=str(root)).setup("fit")
