"""InstanceFolder and PennFudan: objects from masks of instance ids."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.datamodules.detection.instance_folder import InstanceFolder, InstanceMasks, parse_instances
from darkroom.datamodules.detection.penn_fudan import URL, PennFudan
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import DetectionDataContract
from tests.fakes.boxes import dsb2018_instances, instance_folder, penn_fudan


class TestInstanceFolder(DetectionDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> InstanceFolder:
        return InstanceFolder(root=str(instance_folder(tmp_path / "data")), masks=True, **kwargs)

    def test_random_splits_have_requested_sizes(self, data: InstanceFolder) -> None:
        assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [8, 1, 1]

    def test_boxes_are_tight_around_masks(self, data: InstanceFolder) -> None:
        for sample in data.dataset("train"):
            for mask, (x0, y0, x1, y1) in zip(
                sample["target"]["masks"], sample["target"]["boxes"].int().tolist(), strict=True
            ):
                assert mask[y0:y1, x0:x1].all()
                assert mask.sum() == (x1 - x0) * (y1 - y0)
                assert (sample["image"][:, y0:y1, x0:x1] == 250).all()


class TestFoldersOfTheirOwn(DetectionDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> InstanceFolder:
        folders = {"images_dir": "train/images", "masks_dir": "train/labels"}
        folders |= {"test_images_dir": "test/images", "test_masks_dir": "test/labels"}
        root = str(dsb2018_instances(tmp_path / "data"))
        return InstanceFolder(root=root, class_name="nucleus", val_fraction=0.3, **folders, **kwargs)

    def test_class_name_and_split_sizes(self, data: InstanceFolder) -> None:
        assert data.class_names == ("nucleus",)
        assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [7, 3, 10]

    def test_masks_are_loaded_on_demand(self, data: InstanceFolder) -> None:
        assert "masks" not in data.dataset("train")[0]["target"]


class TestPennFudan(DetectionDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> PennFudan:
        return PennFudan(root=str(penn_fudan(tmp_path / "data")), masks=True, **kwargs)

    def test_class_name_and_split_sizes(self, data: PennFudan) -> None:
        assert data.class_names == ("pedestrian",)
        assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [7, 1, 2]


def parse(tmp_path: Path, mask: Image.Image) -> Any:
    mask.save(tmp_path / "mask.png")
    return parse_instances(tmp_path / "mask.png", tmp_path / "a.jpg")


IDS = np.zeros((8, 9), np.uint16)
IDS[1:3, 2:6], IDS[7, 8], IDS[0, 0], IDS[5, 1] = 7, 300, 40000, 7  # id 7 is in two pieces
BOXES = [[1, 1, 6, 6], [8, 7, 9, 8], [0, 0, 1, 1]]  # in the order of ids


@pytest.mark.parametrize("kind", ["16 bit", "grey", "palette"])
def test_boxes_and_masks_are_read_from_ids(tmp_path: Path, kind: str) -> None:
    ids = IDS
    if kind != "16 bit":
        ids = np.select([ids == 7, ids == 300, ids == 40000], [1, 5, 9]).astype(np.uint8)
    mask = Image.fromarray(ids)
    if kind == "palette":
        mask.putpalette([1, 2, 3] * 256)
    found = parse(tmp_path, mask)
    assert found.size == (8, 9)
    assert found.boxes.tolist() == BOXES
    assert found.labels.tolist() == [1, 1, 1]
    masks = found.masks()
    assert masks.dtype == np.uint8
    assert np.array_equal(masks, np.stack([IDS == 7, IDS == 300, IDS == 40000]))


def test_empty_mask_has_no_objects(tmp_path: Path) -> None:
    found = parse(tmp_path, Image.new("L", (9, 8)))
    assert found.boxes.shape == (0, 4)
    assert found.masks().shape == (0, 8, 9)


def test_hundreds_of_objects_are_read(tmp_path: Path) -> None:
    ids = np.kron(np.arange(400).reshape(20, 20), np.ones((3, 3))).astype(np.uint16)
    found = parse(tmp_path, Image.fromarray(ids))
    assert len(found.boxes) == 399
    assert (found.boxes[:, 2:] - found.boxes[:, :2] == 3).all()
    assert (found.masks().sum((1, 2)) == 9).all()


def test_black_and_white_mask_raises(tmp_path: Path) -> None:
    mask = np.zeros((8, 9), np.uint8)
    mask[:3, :3] = 255
    assert len(parse(tmp_path, Image.fromarray(mask)).boxes) == 1
    mask[5:, 5:] = 255
    with pytest.raises(DataError, match=r"mask\.png has one id, 255, in 2 pieces, like a black and white mask"):
        parse(tmp_path, Image.fromarray(mask))


def test_masks_of_ones_with_separate_pieces_raise(tmp_path: Path) -> None:
    paths = sorted((instance_folder(tmp_path) / "masks").iterdir())
    data = InstanceFolder(root=str(tmp_path), val_fraction=0, test_fraction=0)
    for number, path in enumerate(paths):
        mask = np.zeros(Image.open(path).size[::-1], np.uint8)
        mask[:3, :3] = 1
        mask[5:8, 5:8] = number == 0  # one object behind a pole
        Image.fromarray(mask).save(path)
    assert len(data.annotations("train")) == len(paths)
    mask[5:8, 5:8] = 1
    Image.fromarray(mask).save(paths[-1])
    with pytest.raises(
        DataError, match=r"but 2 have several pieces, such as .*picture00\.png, like black and white masks"
    ):
        data.annotations("train")


def test_mask_of_other_size_raises(tmp_path: Path) -> None:
    path = instance_folder(tmp_path) / "masks/picture00.png"
    Image.new("L", (5, 6)).save(path)
    data = InstanceFolder(root=str(tmp_path), val_fraction=0, test_fraction=0)
    with pytest.raises(DataError, match=r"picture00\.png has 64 x 48 pixels, but .*masks/picture00\.png states 5 x 6"):
        data.dataset("train")[0]


def test_missing_mask_is_named(tmp_path: Path) -> None:
    (instance_folder(tmp_path) / "masks/picture03.png").unlink()
    with pytest.raises(DataError, match=r"picture03\.png has no mask"):
        InstanceFolder(root=str(tmp_path)).dataset("train")


def test_contradicting_arguments_raise() -> None:
    with pytest.raises(UsageError, match="data.val_images_dir and data.val_masks_dir must be given together"):
        InstanceFolder(val_images_dir="val")
    with pytest.raises(UsageError, match=r"data.\*_fraction"):
        PennFudan(val_fraction=0.5, test_fraction=0.5)


def test_worker_processes_read_masks(tmp_path: Path) -> None:
    data = InstanceFolder(root=str(instance_folder(tmp_path)), masks=True, num_workers=2, batch_size=4)
    data.setup("fit")
    (first, _) = data.train_dataloader()
    assert all(target["masks"].any() for target in first["target"])
    assert InstanceMasks(tmp_path / "masks/picture00.png")().any()


# --- download ---------------------------------------------------------------------------------------------------------


def archive(tmp_path: Path, count: int) -> bytes:
    penn_fudan(tmp_path / "source", count)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for path in sorted((tmp_path / "source").rglob("*.png")):
            file.write(path, path.relative_to(tmp_path / "source"))
    return buffer.getvalue()


@pytest.mark.parametrize("count", [170, 169])
def test_download_requires_every_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    def get(url: str, folder: Path, sha256: str | None = None, md5: str | None = None) -> Path:
        assert url == URL
        folder.mkdir(parents=True)
        (folder / "PennFudanPed.zip").write_bytes(archive(tmp_path, count))
        return folder / "PennFudanPed.zip"

    monkeypatch.setattr("darkroom.datamodules.io.download.fetch", get)
    data = PennFudan(root=str(tmp_path / "data"), download=True)
    if count == 170:
        data.prepare_data()
        assert len(data.dataset("train")) == 119
    else:
        with pytest.raises(DataError, match="has 169 images in PNGImages; it must have 170"):
            data.prepare_data()
        assert not (tmp_path / "data/PennFudanPed").exists()


def test_missing_download_is_named() -> None:
    with pytest.raises(DataError, match="PennFudanPed does not exist.*--data.download true"):
        PennFudan().setup("fit")
