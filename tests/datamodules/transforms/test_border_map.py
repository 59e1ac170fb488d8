"""Border map: exact distances in the augmented image, and only on request."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torchvision.transforms import v2

from darkroom.datamodules.loading import KeyedDataset
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.datamodules.shapes.scenes import SceneGenerator
from darkroom.datamodules.shapes.segmentation import SegmentationScenes, ShapesSegmentation
from darkroom.datamodules.transforms.border_map import FAR, BorderMap, border_distance, find_touching
from tests.contracts.datamodule import SegmentationDataContract
from tests.fakes.pictures import dsb2018, image_mask_folder


class BordersContract(SegmentationDataContract):
    def test_samples_contain_border(self, data: Any) -> None:
        data.setup("predict")
        for loader in [*self.loaders(data).values(), data.predict_dataloader()]:
            batch = next(iter(loader))
            assert batch["border"].dtype == torch.float32
            assert batch["border"].shape == batch["mask"].shape
            assert batch["border"].min() >= 1  # the distances to two instances are never both 0
            assert "instances" not in batch


class TestFolderWithBorders(BordersContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ImageMaskFolder:
        dsb2018(tmp_path)
        folders = {"images_dir": "train/images", "masks_dir": "train/labels", "mask_values": "nonzero"}
        return ImageMaskFolder(
            root=str(tmp_path), crop=32, val_fraction=0.2, test_fraction=0.2, borders=True, eval_batch_size=1,
            **folders, **kwargs,
        )  # fmt: skip


class TestShapesWithBorders(BordersContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ShapesSegmentation:
        return ShapesSegmentation(train_size=8, val_size=4, test_size=4, side=32, borders=True, **kwargs)


def scattered(count: int, seed: int = 0) -> np.ndarray:
    """Return int32 (70, 90) with rectangles numbered from 1, later ones on top."""
    rng, instances = np.random.default_rng(seed), np.zeros((70, 90), np.int32)
    for number in range(1, count + 1):
        y, x = rng.integers(0, (60, 80))
        instances[y : y + rng.integers(3, 12), x : x + rng.integers(3, 12)] = number
    return instances


@pytest.mark.parametrize("count", [2, 3, 12])
@pytest.mark.parametrize("reach", [10, 32])
def test_distances_are_exact_within_reach(count: int, reach: int) -> None:
    instances = scattered(count)
    each = [distance_transform_edt(instances != number) for number in np.unique(instances)[1:]]
    nearest, second = np.sort(each, 0)[:2]
    expected = np.where(second <= reach, nearest + second, FAR)
    border = border_distance(instances, reach)
    assert border.dtype == np.float32
    np.testing.assert_allclose(border, expected, rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_instances_have_no_border(count: int) -> None:
    assert (border_distance(scattered(count)) == FAR).all()


def test_distance_between_two_columns() -> None:
    instances = np.zeros((1, 9), np.int32)
    instances[0, 0], instances[0, 6:] = 4, 2  # numbers may be missing
    assert border_distance(instances).tolist() == [[6, 6, 6, 6, 6, 6, 6, 7, 8]]


def test_diagonal_neighbours_touch() -> None:
    instances = np.array([[1, 0, 0, 0], [0, 2, 2, 0], [0, 2, 2, 0], [0, 0, 0, 3]], np.int32)
    assert np.argwhere(find_touching(instances)).tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


@pytest.mark.parametrize("separate", [True, False])
def test_touching_instances_are_separated_on_request(separate: bool) -> None:
    mask, instances = torch.ones(4, 8, dtype=torch.uint8), torch.ones(4, 8, dtype=torch.int32)
    mask[3], instances[:, 4:], instances[3] = 255, 2, 0
    before = mask.clone()
    sample = BorderMap(separate)({"image": None, "mask": mask, "instances": instances, "path": "a"})
    assert torch.equal(mask, before)  # tensors of the dataset are not modified
    assert sample.keys() == {"image", "mask", "border", "path"}
    assert sample["mask"].dtype == torch.uint8
    rows = [1, 1, 1, 0, 0, 1, 1, 1] if separate else [1] * 8
    assert sample["mask"].tolist() == [rows] * 3 + [[255] * 8]
    assert sample["border"][0, :4].tolist() == ([5, 4, 3, 3] if separate else [4, 3, 2, 1])


def test_padding_is_not_an_instance() -> None:
    mask, instances = torch.zeros(8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.int32)
    mask[2:4], instances[2:4], mask[6:], instances[6:] = 1, 1, 255, 255
    assert (BorderMap()({"mask": mask, "instances": instances})["border"] == FAR).all()


def test_border_belongs_to_augmented_image() -> None:
    scenes = SegmentationScenes(SceneGenerator(objects=(3, 5)), "train", 20, instances=True)
    for index in range(20):
        plain = KeyedDataset(scenes, BorderMap())[0, index]
        flipped = KeyedDataset(scenes, v2.Compose([v2.RandomHorizontalFlip(1), BorderMap()]))[0, index]
        assert torch.equal(flipped["border"], plain["border"].flip(1))


def test_only_training_separates_instances() -> None:
    data = ShapesSegmentation(train_size=30, val_size=30, test_size=30, objects=(5, 5), borders=True, num_workers=0)
    moved = {}
    for stage in ("fit", "test"):
        data.setup(stage)
    for split, dataset in data._datasets.items():
        raw = [dataset.dataset[index] for index in range(30)]
        seams = torch.stack([torch.from_numpy(find_touching(sample["instances"].numpy())) for sample in raw])
        before = torch.stack([sample["mask"] for sample in raw])
        after = torch.stack([dataset[0, index]["mask"] for index in range(30)])
        moved[split] = bool((after != before).any())
        assert torch.equal(after, torch.where(seams, 0, before) if split == "train" else before)
    assert moved == {"train": True, "val": False, "test": False}


def test_border_is_absent_by_default(tmp_path: Path) -> None:
    image_mask_folder(tmp_path)
    for data in (ImageMaskFolder(root=str(tmp_path), crop=16, val_fraction=0.2), ShapesSegmentation(train_size=2)):
        data.setup("fit")
        assert data._datasets["val"].augment is None  # so that datasets can return whole batches
        assert not data._datasets["train"][0, 0].keys() & {"instances", "border"}


def test_predict_photos_have_no_border(tmp_path: Path) -> None:
    image_mask_folder(tmp_path)
    data = ShapesSegmentation(borders=True, predict=str(tmp_path / "images"), num_workers=0)
    data.setup("predict")
    assert next(iter(data.predict_dataloader())).keys() == {"image", "path", "size"}
