"""Two stages of DeconvNet: position of crops and contents of their masks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.ops import box_iou

from darkroom.datamodules.loading import as_tv_tensors, keyed_rng
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.datamodules.transforms.deconvnet_crops import ObjectCrop, WindowCrop
from tests.contracts.datamodule import SegmentationDataContract
from tests.fakes.pictures import image_mask_folder

FILL = (7, 8, 9)
BOXES = {1: (10, 20, 30, 30), 2: (50, 4, 58, 44), 3: (0, 48, 12, 60)}  # xyxy; the third lies in a corner
CLASSES = {1: 1, 2: 2, 3: 1}


def make_sample(numbers: tuple[int, ...] = (1, 2, 3)) -> dict[str, Any]:
    """Return a sample of 60 x 80 pixels with rectangles whose value encodes the instance; two columns are ignored."""
    instances, mask = torch.zeros(60, 80, dtype=torch.int32), torch.zeros(60, 80, dtype=torch.uint8)
    for number in numbers:
        x0, y0, x1, y1 = BOXES[number]
        instances[y0:y1, x0:x1], mask[y0:y1, x0:x1] = number, CLASSES[number]
    mask[:, 78:] = 255
    image = (50 + 50 * instances).to(torch.uint8).expand(3, -1, -1)
    return {"image": image, "mask": mask, "instances": instances, "path": "a"}


def crops(kind: type[ObjectCrop], count: int = 40, numbers: tuple[int, ...] = (1, 2, 3), **kwargs: Any) -> list[dict]:
    crop = kind(56, FILL, keep_instances=True, **kwargs)
    found = []
    for index in range(count):
        with keyed_rng(0, 0, index):
            found.append(crop(as_tv_tensors(make_sample(numbers))))
    return found


@pytest.mark.parametrize("kind", [ObjectCrop, WindowCrop])
class TestBothStages:
    def test_crops_have_stated_size_and_type(self, kind: type[ObjectCrop]) -> None:
        for sample in crops(kind):
            assert sample["image"].shape == (3, 56, 56)
            assert sample["mask"].shape == sample["instances"].shape == (56, 56)
            dtypes = [sample[key].dtype for key in ("image", "mask", "instances")]
            assert dtypes == [torch.uint8, torch.uint8, torch.int32]
            assert sample["path"] == "a"

    def test_crop_depends_only_on_key(self, kind: type[ObjectCrop]) -> None:
        first, second = crops(kind), crops(kind)
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True))
        assert len({bytes(sample["image"].numpy().tobytes()) for sample in first}) > 30

    def test_image_and_instances_are_aligned(self, kind: type[ObjectCrop]) -> None:
        for sample in crops(kind, numbers=(1,)):
            seen = sample["image"][0] > 75  # the middle of an edge between 50 and 100
            assert (seen == (sample["instances"] == 1))[sample["mask"] != 255].float().mean() > 0.985

    def test_pixels_outside_of_image_are_ignored(self, kind: type[ObjectCrop]) -> None:
        share = []
        for sample in crops(kind, numbers=(3,)):
            outside = (sample["image"] == torch.tensor(FILL)[:, None, None]).all(0)
            assert (sample["mask"][outside] == 255).all()
            assert (sample["instances"][outside] == 0).all()
            share.append(float(outside.float().mean()))
        assert max(share) > 0.1

    @pytest.mark.parametrize("specks", [False, True])
    def test_image_without_objects_gives_random_crop(self, kind: type[ObjectCrop], specks: bool) -> None:
        sample = make_sample(())
        if specks:
            sample["instances"][5, 5:9], sample["mask"][5, 5:9] = 1, 1
        seen = kind(56, FILL)(as_tv_tensors(sample))
        assert seen["image"].shape == (3, 56, 56)
        assert (seen["image"] == 50).all()
        assert seen["mask"].unique().tolist() in ([0], [0, 255], [0, 1], [0, 1, 255])

    def test_instances_are_kept_on_request(self, kind: type[ObjectCrop]) -> None:
        assert kind(56, FILL)(as_tv_tensors(make_sample())).keys() == {"image", "mask", "path"}

    def test_tensors_of_dataset_are_not_modified(self, kind: type[ObjectCrop]) -> None:
        sample, before = make_sample(), make_sample()
        kind(56, FILL)(as_tv_tensors(sample))
        assert all(torch.equal(sample[key], before[key]) for key in ("image", "mask", "instances"))


def test_object_is_centered_at_stated_scale() -> None:
    chosen = set()
    for sample in crops(ObjectCrop, numbers=(1, 2)):
        (number,) = [n for n in (1, 2) if (sample["mask"] == CLASSES[n]).any()]
        chosen.add(number)
        rows, columns = torch.nonzero(sample["instances"] == number).T
        centre = [(axis.min() + axis.max() + 1) / 2 for axis in (rows, columns)]
        assert all(
            abs(c - 28) <= 4.5 for c in centre
        )  # the warped window is 62 wide: crop offset of up to 3, and rounding
        longer = max(axis.max() + 1 - axis.min() for axis in (rows, columns))
        assert abs(longer - 62 / 1.2) <= 3
        x0, y0, x1, y1 = BOXES[number]
        shape = [axis.max() + 1 - axis.min() for axis in (columns, rows)]
        assert shape[0] / shape[1] == pytest.approx((x1 - x0) / (y1 - y0), abs=0.2)  # square windows do not warp
    assert chosen == {1, 2}


def test_object_crop_keeps_one_class() -> None:
    for sample in crops(ObjectCrop):
        classes = set(sample["mask"].unique().tolist()) - {0, 255}
        assert len(classes) == 1
    data = ShapesSegmentation(train_size=64, crops="objects", objects=(4, 5), num_workers=0)
    data.setup("fit")
    for batch in data.train_dataloader():
        for mask in batch["mask"]:
            assert len(set(mask.unique().tolist()) - {0, 255}) == 1


def test_ignored_pixels_stay_ignored() -> None:
    sample = make_sample((2,))
    sample["mask"][20:30, 60:66] = 255
    seen = ObjectCrop(56, FILL)(as_tv_tensors(sample))
    assert seen["mask"].unique().tolist() == [0, 2, 255]


def test_windows_keep_every_class() -> None:
    sample = make_sample((1, 2))
    sample["instances"][20:30, 30:34], sample["mask"][20:30, 30:34] = 4, 4
    kept = set()
    for index in range(20):
        with keyed_rng(1, index):
            kept |= {frozenset(WindowCrop(56, FILL)(as_tv_tensors(sample))["mask"].unique().tolist())}
    assert any({1, 4} <= classes for classes in kept)


def test_windows_overlap_their_object_by_half() -> None:
    image_size = torch.tensor([80, 60])
    for box in map(torch.tensor, BOXES.values()):
        windows = torch.stack([WindowCrop.propose(box, image_size).float() for _ in range(300)])
        overlap = box_iou(windows, box[None].float())[:, 0]
        assert overlap.min() >= 0.5
        assert overlap.std() > 0.05
        assert (windows[:, :2] >= 0).all()
        assert (windows[:, 2:] <= image_size).all()
        assert (windows == box).all(1).float().mean() < 0.1  # it rarely falls back to the box


class TestFolderOfObjects(SegmentationDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ImageMaskFolder:
        image_mask_folder(tmp_path)
        return ImageMaskFolder(
            root=str(tmp_path), crop=32, val_fraction=0.2, test_fraction=0.2, crops="objects", **kwargs
        )


class TestFolderOfWindowsWithBorders(SegmentationDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ImageMaskFolder:
        image_mask_folder(tmp_path)
        options = {"crops": "windows", "borders": True}
        return ImageMaskFolder(root=str(tmp_path), crop=32, val_fraction=0.2, test_fraction=0.2, **options, **kwargs)


class TestShapesOfWindows(SegmentationDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ShapesSegmentation:
        return ShapesSegmentation(train_size=8, val_size=4, test_size=4, side=32, crops="windows", **kwargs)


class TestShapesOfObjectsWithBorders(SegmentationDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ShapesSegmentation:
        options = {"crops": "objects", "borders": True}
        return ShapesSegmentation(train_size=8, val_size=4, test_size=4, side=32, **options, **kwargs)


@pytest.mark.parametrize("stage", ["objects", "windows"])
def test_evaluation_uses_full_images(stage: str) -> None:
    whole, cropped = ShapesSegmentation(val_size=4), ShapesSegmentation(val_size=4, crops=stage)
    for data in (whole, cropped):
        data.setup("validate")
    keys = [(0, index) for index in range(4)]
    a, b = (data._datasets["val"].__getitems__(keys) for data in (whole, cropped))
    assert a.keys() == b.keys() == {"image", "mask"}
    assert torch.equal(a["image"], b["image"])
