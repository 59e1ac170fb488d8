"""Pipeline of images and boxes: augmentation transforms the whole target, batches share an aspect ratio."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from darkroom.datamodules.detection.coco_detection import CocoDetection
from darkroom.datamodules.detection.voc_detection import VOCDetection
from darkroom.datamodules.detection.yolo_folder import YoloFolder
from darkroom.datamodules.loading import as_tv_tensors
from darkroom.datamodules.proposals.methods import GridProposals
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.datamodules.transforms.objects import KeepVisible
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import DetectionDataContract
from tests.fakes.boxes import coco_detection, grey, voc_detection, yolo_folder

CLASSES = 3


class TestShapesDetection(DetectionDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ShapesDetection:
        return ShapesDetection(train_size=6, val_size=4, test_size=4, side=32, masks=True, **kwargs)


def build(root: Path, stage: str = "fit", **kwargs: Any) -> CocoDetection:
    """Build five images of grey rectangles, the last one empty; the grey value encodes the class."""
    if not (root / "annotations").is_dir():
        coco_detection(root, ending=".png")
    data = CocoDetection(root=str(root), **{"masks": True, "num_workers": 0, "batch_size": 1, **kwargs})
    data.setup(stage)
    return data


def epoch(data: Any, number: int = 0) -> list[tuple[Tensor, dict[str, Any]]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return [pair for batch in loader for pair in zip(batch["image"], batch["target"], strict=True)]


def tight_boxes(masks: Tensor) -> Tensor:
    """Return tight_boxes boxes of masks (N, H, W), including the last pixel."""
    return masks_to_boxes(masks) + torch.tensor([0.0, 0, 1, 1]) if len(masks) else torch.zeros(0, 4)


def check_consistency(image: Tensor, target: dict[str, Any], atol: float = 0.0, shades: float = 0.0) -> int:
    """Assert that boxes, masks, labels and image agree; return the number of objects."""
    boxes, labels, masks, count = target["boxes"], target["labels"], target["masks"], len(target["boxes"])
    height, width = image.shape[-2:]
    assert all(type(value) is Tensor for value in (image, boxes, labels, masks))
    assert (boxes.shape, labels.shape, masks.shape) == ((count, 4), (count,), (count, height, width))
    assert masks.dtype == image.dtype == torch.uint8
    assert ((boxes >= 0) & (boxes <= torch.tensor([width, height] * 2))).all()
    torch.testing.assert_close(tight_boxes(masks), boxes, atol=atol, rtol=0)
    for label, mask in zip(labels.tolist(), masks.bool(), strict=True):
        assert image[:, mask].float().median() == pytest.approx(grey(label, CLASSES), abs=shades)
    return count


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_without_augmentation_targets_match_images(tmp_path: Path) -> None:
    assert sum(check_consistency(*pair) for pair in epoch(build(tmp_path, augment=[]))) > 5


@pytest.mark.parametrize("flip", [v2.RandomHorizontalFlip, v2.RandomVerticalFlip])
def test_flip_moves_boxes_and_masks(tmp_path: Path, flip: type[v2.Transform]) -> None:
    plain = {target["image_id"]: target for _, target in epoch(build(tmp_path, augment=[]))}
    for image, target in epoch(build(tmp_path, augment=[flip(p=1)])):
        check_consistency(image, target)
        before, side, first = plain[target["image_id"]]["boxes"], *((2, 0) if "Horizontal" in flip.__name__ else (1, 1))
        assert torch.equal(target["boxes"][:, first], image.shape[side] - before[:, first + 2])


def test_ssd_augmentations_keep_targets_consistent(tmp_path: Path) -> None:
    augment = [
        v2.RandomPhotometricDistort(brightness=(0.97, 1.03), contrast=(0.97, 1.03)),  # grey has no hue to lose
        v2.RandomZoomOut(side_range=(1, 2)),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.ScaleJitter([80, 80], scale_range=(0.7, 1.3)),
    ]
    data = build(tmp_path, augment=augment, min_box=4)
    counts = [[check_consistency(*pair, atol=1.5, shades=25) for pair in epoch(data, number)] for number in range(12)]
    whole = sum(check_consistency(*pair) for pair in epoch(build(tmp_path, augment=[])))
    assert whole * 4 < sum(map(sum, counts)) < whole * 12  # crops have cut objects away, but not all
    assert all(0 in numbers for numbers in counts)  # images without objects pass through


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomCrop(32),
        v2.RandomZoomOut(fill=127, p=1),
        v2.RandomAffine(0, translate=(0.3, 0.3), fill=127),
        v2.Resize([40, 50]),
        v2.RandomShortestSize([40, 60], max_size=90),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_torchvision_transforms_keep_targets_consistent(tmp_path: Path, transform: v2.Transform) -> None:
    data = build(tmp_path, augment=[transform], min_box=3)
    assert sum(check_consistency(*pair, atol=1.5, shades=4) for number in range(3) for pair in epoch(data, number)) > 5


def test_cropped_objects_are_removed_with_all_fields() -> None:
    masks = torch.zeros(4, 10, 10, dtype=torch.uint8)
    masks[0, 2:6, 2:6] = masks[1, 2:6, 2] = masks[3] = 1  # the third is hidden
    target = {
        "boxes": torch.tensor([[2.0, 2, 6, 6], [2, 2, 2.5, 6], [2, 2, 6, 6], [-5, -5, 50, 50]]),
        "labels": torch.tensor([1, 2, 3, 4]),
        "difficult": torch.tensor([False, True, True, True]),
        "masks": masks,
        "image_id": 7,
    }
    sample = {"image": torch.zeros(3, 10, 10, dtype=torch.uint8), "target": target, "path": "a"}
    kept = KeepVisible(min_side=1)(as_tv_tensors(sample))["target"]
    assert kept["labels"].tolist() == [1, 4]
    assert kept["difficult"].tolist() == [False, True]
    assert kept["boxes"].tolist() == [[2, 2, 6, 6], [0, 0, 10, 10]]
    assert torch.equal(kept["masks"], masks[[0, 3]])
    assert kept["image_id"] == 7


def test_min_box_does_not_apply_to_evaluation(tmp_path: Path) -> None:
    data = build(tmp_path, min_box=1000, augment=[])
    assert all(len(target["boxes"]) == 0 for _, target in epoch(data))
    assert sum(len(target["boxes"]) for batch in data.val_dataloader() for target in batch["target"]) > 5


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_max_side_scales_boxes_and_masks(tmp_path: Path) -> None:
    for image, target in epoch(build(tmp_path, augment=[], max_side=36)):
        assert max(image.shape[1:]) == 36
        check_consistency(image, target, atol=1, shades=60)
    small, full = (build(tmp_path, "validate", max_side=side).dataset("val") for side in (36, None))
    for sample, whole in zip(small, full, strict=True):
        assert torch.equal(sample["size"], whole["size"])
        assert sample["size"].tolist() == list(whole["image"].shape[1:])
        scale = sample["image"].shape[2] / whole["image"].shape[2]
        torch.testing.assert_close(sample["target"]["boxes"], whole["target"]["boxes"] * scale)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_rotates_photo_and_boxes(tmp_path: Path, orientation: int) -> None:
    turns = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    folder = yolo_folder(tmp_path) / "images/val"
    for path in folder.iterdir():
        photo = Image.open(path)
        stored = photo if turns[orientation] is None else photo.transpose(turns[orientation])
        exif = stored.getexif()
        exif[0x0112] = orientation
        stored.save(path, exif=exif)
    for sample in YoloFolder(root=str(tmp_path)).dataset("val"):
        for box, label in zip(sample["target"]["boxes"], sample["target"]["labels"].tolist(), strict=True):
            x0, y0, x1, y1 = box.round().int().tolist()
            assert (sample["image"][:, y0:y1, x0:x1] == grey(label, 2)).all()


def test_annotation_of_stored_pixels_takes_them_unless_rotation_is_asked_for(tmp_path: Path) -> None:
    folder = voc_detection(tmp_path) / "VOCdevkit/VOC2007/JPEGImages"
    photo = Image.open(folder / "2007_val00.jpg")
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(folder / "2007_val00.jpg", exif=exif)
    assert VOCDetection(root=str(tmp_path)).dataset("val")[0]["image"].shape == (3, 48, 64)
    with pytest.raises(
        DataError,
        match=r"2007_val00\.jpg has 48 x 64 pixels \(after EXIF rotation, if any\), but .*2007_val00\.xml states 64 x 48",
    ):
        VOCDetection(root=str(tmp_path), exif="transpose").dataset("val")[0]


# --- batches ----------------------------------------------------------------------------------------------------------


def aspects(loader: Any) -> list[list[bool]]:
    return [[image.shape[2] > image.shape[1] for image in batch["image"]] for batch in loader]


def grouped(tmp_path: Path, **kwargs: Any) -> YoloFolder:
    """Build 16 training images, 8 of them wide."""
    if not (tmp_path / "images").is_dir():
        yolo_folder(tmp_path, count=16)
    data = YoloFolder(root=str(tmp_path), **{"batch_size": 3, "num_workers": 0, **kwargs})
    data.setup("fit")
    return data


@pytest.mark.parametrize("number", range(4))
def test_batches_share_aspect_ratio(tmp_path: Path, number: int) -> None:
    loader = grouped(tmp_path).train_dataloader()
    loader.sampler.set_epoch(number)
    mixed = [len(set(batch)) > 1 for batch in aspects(loader)]
    assert not any(mixed[:-1])
    assert Counter(loader.sampler.order(number)) == Counter(range(16))
    loader = grouped(tmp_path, group_by_aspect=False).train_dataloader()
    assert Counter(loader.sampler.order(number)) == Counter(range(16))


def test_ungrouped_batches_mix_aspect_ratios(tmp_path: Path) -> None:
    loader = grouped(tmp_path, group_by_aspect=False).train_dataloader()
    assert any(len(set(batch)) > 1 for batch in aspects(loader))


def test_evaluation_is_not_grouped_by_aspect(tmp_path: Path) -> None:
    assert grouped(tmp_path).val_dataloader().sampler.order(0) == list(range(16))


@pytest.mark.parametrize("workers", [0, 2])
def test_grouped_epoch_resumes(tmp_path: Path, workers: int) -> None:
    def paths(loader: Any) -> list[list[str]]:
        return [batch["path"] for batch in loader]

    data = grouped(tmp_path, num_workers=workers)
    whole = paths(data.train_dataloader())
    interrupted = data.train_dataloader()
    iterator = iter(interrupted)
    seen = [next(iterator)["path"] for _ in range(2)]
    continued = data.train_dataloader()
    continued.load_state_dict(interrupted.state_dict())
    assert seen + paths(continued) == whole


def test_device_batch_has_bool_masks_and_float_images(tmp_path: Path) -> None:
    data = build(tmp_path, batch_size=5, num_workers=2, augment=[])
    (batch,) = data.train_dataloader()
    assert sorted(len(target["boxes"]) for target in batch["target"])[0] == 0
    assert batch["size"].shape == (5, 2)
    batch = data.on_after_batch_transfer(batch)
    for image, target in zip(batch["image"], batch["target"], strict=True):
        assert (image.dtype, target["masks"].dtype) == (torch.float32, torch.bool)
        assert 0 <= image.min() <= image.max() <= 1


def test_min_box_of_zero_raises() -> None:
    with pytest.raises(UsageError, match="data.min_box must be above 0 pixels, got 0"):
        VOCDetection(min_box=0)


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomIoUCrop(),
        v2.RandomApply([v2.RandomIoUCrop()]),
        v2.Compose([v2.RandomChoice([v2.Identity(), v2.RandomOrder([v2.RandomIoUCrop()])])]),
    ],
    ids=["itself", "sometimes", "deep within"],
)
def test_proposals_with_cropping_augmentation_raise(tmp_path: Path, transform: v2.Transform) -> None:
    with pytest.raises(UsageError, match="data.augment has RandomIoUCrop.*data.proposals"):
        build(tmp_path, augment=[transform], proposals=GridProposals())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"are \[\]; data.class_names"),
        (["a", " "], "with distinct names"),
        (["a", ""], "with distinct names"),
        (["a", "b", "a"], r"\['a'\]"),
    ],
)
def test_invalid_class_names_raise(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        YoloFolder(root=str(yolo_folder(tmp_path)), class_names=names).setup("fit")
