"""ImageFolder: supported layouts, and errors of the others."""

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

    def test_splits_are_disjoint_and_complete(self, data: ImageFolder) -> None:
        paths = {split: set(data.dataset(split).paths) for split in ("train", "val", "test")}
        assert {split: len(found) for split, found in paths.items()} == {"train": 16, "val": 2, "test": 2}
        assert len(set.union(*paths.values())) == 20

    def test_class_is_name_of_folder(self, data: ImageFolder) -> None:
        assert data.class_names == ("cats", "dogs")
        for sample in data.dataset("train"):
            assert data.class_names[sample["label"]] == Path(sample["path"]).parent.name


class TestSplitsByFolder(LabelledDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ImageFolder:
        return ImageFolder(root=str(split_image_folder(tmp_path)), size=16, channels=1, **kwargs)

    def test_splits_follow_folders(self, data: ImageFolder) -> None:
        for split in ("train", "val", "test"):
            assert {path.parents[1].name for path in data.dataset(split).paths} == {split}


def test_missing_val_split_is_taken_from_training(tmp_path: Path) -> None:
    data = ImageFolder(root=str(split_image_folder(tmp_path, ("train", "test"))), val_fraction=0.25)
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [6, 2, 8]
    assert not set(data.dataset("train").paths) & set(data.dataset("val").paths)


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    data = ImageFolder(root=str(flat_folder(tmp_path / "images")), size=32, batch_size=4, num_workers=0)
    assert data.num_classes == 0
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.keys() == {"image", "path"}
    assert batch["image"].shape == (4, 3, 32, 32)


def test_bit_depth_alpha_and_exif_are_handled(tmp_path: Path) -> None:
    """Check 16-bit images, alpha channels and EXIF rotation."""
    Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((8, 8, 4), (255, 255, 255, 0), np.uint8)).save(tmp_path / "glass.png")
    turned, exif = np.zeros((8, 8, 3), np.uint8), Image.Exif()
    turned[:4] = 255
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    Image.fromarray(turned).save(tmp_path / "photo.png", exif=exif)
    data = ImageFolder(root=str(tmp_path), size=8, val_fraction=0, test_fraction=0)
    deep, glass, photo = (sample["image"] for sample in data.dataset("train"))
    assert (deep == 128).all()
    assert (glass == 0).all()
    assert (photo[:, :, 4:] == 255).all()
    assert (photo[:, :, :4] == 0).all()


def test_center_square_is_resized(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    data = ImageFolder(root=str(tmp_path), size=10, val_fraction=0, test_fraction=0)
    assert torch.equal(data.dataset("train")[0]["image"], torch.full((3, 10, 10), 200, dtype=torch.uint8))


def test_limit_keeps_all_classes(tmp_path: Path) -> None:
    data = ImageFolder(root=str(image_folder(tmp_path)), limit=8)
    assert len(data.dataset("train")) == 8
    assert set(data.dataset("train").labels) == {0, 1}


def test_invalid_layouts_raise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root: folder nowhere does not exist; .*\.png.*per class"):
        ImageFolder(root="nowhere").setup("fit")
    mixed = image_folder(tmp_path / "mixed")
    Image.new("RGB", (8, 8)).save(mixed / "stray.png")
    with pytest.raises(DataError, match=r"mixed has images \(stray.png\) and folders \(cats\)"):
        ImageFolder(root=str(mixed)).setup("fit")
    untrained = split_image_folder(tmp_path / "untrained", ("test", "val"))
    with pytest.raises(DataError, match="has a folder test, but no folder train"):
        ImageFolder(root=str(untrained)).setup("fit")
    other = split_image_folder(tmp_path / "other")
    (other / "val/cats").rename(other / "val/cows")
    with pytest.raises(DataError, match="val/cows: the class has no folder.*one of cats, dogs"):
        ImageFolder(root=str(other)).setup("fit")
    empty = image_folder(tmp_path / "empty")
    (empty / "birds").mkdir()
    with pytest.raises(DataError, match="birds has no images"):
        ImageFolder(root=str(empty)).setup("fit")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"nothing has no images \(\.png.*data.root is .*nothing"):
        ImageFolder(root=str(tmp_path / "nothing")).setup("fit")


def test_broken_image_is_named(tmp_path: Path) -> None:
    folder = flat_folder(tmp_path / "images")
    (folder / "picture0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="picture0.png cannot be read as an image"):
        list(ImageFolder(root=str(folder), val_fraction=0, test_fraction=0).dataset("train"))


def test_fractions_that_leave_no_images_raise(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data.*_fraction"):
        ImageFolder(val_fraction=0.5, test_fraction=0.5)
    root = str(image_folder(tmp_path))
    with pytest.raises(UsageError, match=r"data.val_fraction 0 leaves none of 20 images for val; .*/val"):
        ImageFolder(root=root, val_fraction=0).setup("fit")
    with pytest.raises(UsageError, match=r"data.test_fraction 0.01 leaves none of 20 images for test"):
        ImageFolder(root=root, test_fraction=0.01).setup("predict")


def test_val_classes_other_than_training_raise(tmp_path: Path) -> None:
    root = split_image_folder(tmp_path, ("train",))
    flat_folder(root / "val")
    with pytest.raises(DataError, match=r"val has no folders of images, as train does, \(\.png"):
        ImageFolder(root=str(root)).setup("fit")


def test_folders_inside_a_class_belong_to_it(tmp_path: Path) -> None:
    for name in ("cats/2020/a.png", "cats/b.png", "dogs/deep/er/c.png", "__MACOSX/d.png", "dogs/.cache/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    data = ImageFolder(root=str(tmp_path), size=8, val_fraction=0, test_fraction=0)
    dataset = data.dataset("train")
    assert data.class_names == ("cats", "dogs")
    assert sorted((Path(one["path"]).name, int(one["label"])) for one in map(dataset.__getitem__, range(3))) == [
        ("a.png", 0),
        ("b.png", 0),
        ("c.png", 1),
    ]


@pytest.mark.parametrize(("count", "remedy"), [(4, "set it to 0.25 or more"), (5, "set it to 0.2 or more")])
def test_few_images_name_the_fraction(tmp_path: Path, count: int, remedy: str) -> None:
    for index in range(count):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{index}.png")
    with pytest.raises(UsageError, match=rf"data\.val_fraction 0\.1 leaves none of {count} images for val; {remedy}"):
        ImageFolder(root=str(tmp_path), size=8).setup("fit")


def test_crop_is_random_in_training_and_central_elsewhere(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(16, dtype=np.uint8)[:, None] * 10, (1, 16))
    for split in ("train", "val", "test"):
        folder = tmp_path / split / "ramp"
        folder.mkdir(parents=True)
        Image.fromarray(ramp).save(folder / "0.png")
    data = ImageFolder(root=str(tmp_path), size=16, crop=8, channels=1, flip=False, num_workers=0, batch_size=1)
    assert data.image_shape == (1, 8, 8)
    data.setup("fit")
    data.setup("test")
    train, test = data._datasets["train"], data._datasets["test"]
    assert len({train[epoch, 0]["image"][0, 0, 0].item() for epoch in range(20)}) > 1
    assert train[0, 0]["image"].shape == (1, 8, 8)
    assert test[0, 0]["image"][0, :, 0].tolist() == [value * 10 for value in range(4, 12)]
    with pytest.raises(UsageError, match="data.crop must be from 1 to data.size, 16, got 17"):
        ImageFolder(root=str(tmp_path), size=16, crop=17)
