"""Every transform of torchvision keeps boxes in step with what belongs to them, or refuses boxes."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from darkroom.datamodules.detection.coco_detection import CocoDetection
from darkroom.datamodules.loading import as_tv_tensors
from darkroom.datamodules.proposals.methods import GridProposals
from darkroom.datamodules.transforms.objects import KeepVisible, SanitizeObjects, contains, keep_in_step
from darkroom.errors import UsageError
from tests.fakes.boxes import coco_detection

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "CenterCrop": (40,),
    "ConvertBoundingBoxFormat": ("CXCYWH",),
    "GaussianBlur": (3,),
    "JPEG": (50,),
    "Lambda": (lambda value: value,),
    "Pad": (7,),
    "RandomAffine": (30, (0.3, 0.3), (0.7, 1.3)),
    "RandomChoice": ([v2.RandomHorizontalFlip(1.0), v2.SanitizeBoundingBoxes()],),
    "RandomApply": ([v2.RandomCrop(40), v2.SanitizeBoundingBoxes()], 1.0),
    "RandomCrop": (32,),
    "RandomHorizontalFlip": (1.0,),
    "RandomOrder": ([v2.RandomVerticalFlip(1.0), v2.SanitizeBoundingBoxes(labels_getter=None)],),
    "RandomAdjustSharpness": (2,),
    "RandomPosterize": (4,),
    "RandomResize": (30, 90),
    "RandomResizedCrop": (40,),
    "RandomRotation": (40,),
    "RandomShortestSize": (40,),
    "RandomSolarize": (100,),
    "RandomVerticalFlip": (1.0,),
    "Resize": ((50, 90),),
    "SanitizeBoundingBoxes": (9.0,),
    "ScaleJitter": ((60, 60),),
    "SetClampingMode": (None,),
    "ToDtype": (torch.uint8,),
    "Compose": ([v2.RandomIoUCrop(), v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(), v2.ToPureTensor()],),
}
# Of images without boxes, of whole batches, of videos, or with a result that data.augment refuses.
OTHERS = {
    "ConvertImageDtype",  # scales boxes like pixels
    *("AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide"),  # refuse boxes
    *("CutMix", "MixUp", "FiveCrop", "TenCrop", "LinearTransformation", "Normalize", "UniformTemporalSubsample"),
    *("PILToTensor", "ToPILImage", "ToTensor", "SanitizeKeyPoints", "Transform"),
}
ACCEPTING = sorted(
    name
    for name, one in vars(v2).items()
    if inspect.isclass(one) and issubclass(one, v2.Transform) and name not in OTHERS
)
SIZE = (64, 80)
CORNERS = [(2, 3, 12, 11), (50, 4, 71, 20), (8, 40, 16, 60), (44, 36, 75, 62), (30, 30, 34, 34)]


def sample(proposals: bool) -> dict[str, Any]:
    """Build objects whose fields all encode their number; boxes are tight around masks."""
    count = len(CORNERS)
    masks = torch.zeros(count, *SIZE, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, CORNERS, strict=True):
        mask[y0:y1, x0:x1] = 1
    number = torch.arange(1, count + 1)
    target = {
        "boxes": torch.tensor(CORNERS, dtype=torch.float32),
        "labels": number,
        "difficult": number % 2 == 0,
        "iscrowd": number > 2,
        "area": 100.0 * number,
        "masks": masks,
        "image_id": 3,
    }
    image = torch.randint(256, (3, *SIZE), dtype=torch.uint8)
    whole = {"image": image, "target": target, "path": "a.png", "size": torch.tensor(SIZE)}
    if proposals:
        whole["proposals"] = torch.tensor([[0, 0, 80, 64], [5, 5, 8, 8], [40, 30, 41, 31]], dtype=torch.float32)
    return whole


def augmented(transform: v2.Transform, seed: int, proposals: bool = False) -> dict[str, Any]:
    torch.manual_seed(seed)
    return KeepVisible()(keep_in_step(transform)(as_tv_tensors(sample(proposals))))


def check_in_step(result: dict[str, Any]) -> int:
    """Assert that all fields belong to the object of the label; return the number of objects."""
    target, labels = result["target"], result["target"]["labels"]
    height, width = result["image"].shape[-2:]
    for name in ("boxes", "difficult", "iscrowd", "area", "masks"):
        assert len(target[name]) == len(labels), name
    assert torch.equal(target["difficult"], labels % 2 == 0)
    assert torch.equal(target["iscrowd"], labels > 2)
    assert torch.equal(target["area"], 100.0 * labels)
    assert target["masks"].shape[1:] == (height, width)
    assert ((target["boxes"] >= 0) & (target["boxes"] <= torch.tensor([width, height] * 2))).all()
    for box, mask in zip(target["boxes"], target["masks"], strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        middle = torch.stack([columns.float().mean(), rows.float().mean()])
        assert ((middle >= box[:2] - 3) & (middle <= box[2:] + 3)).all()
    return len(labels)


def build(name: str) -> v2.Transform:
    return vars(v2)[name](*ARGUMENTS.get(name, ()))


@pytest.mark.parametrize("name", ACCEPTING)
def test_fields_of_objects_stay_in_step(name: str) -> None:
    sanitized = v2.Compose([build(name), v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=5)])
    counts = [check_in_step(augmented(one, seed)) for one in (build(name), sanitized) for seed in range(3)]
    assert 0 < sum(counts) <= 2 * 3 * len(CORNERS)


@pytest.mark.parametrize("name", [name for name in ACCEPTING if not contains(build(name), v2.RandomIoUCrop)])
def test_proposals_stay_valid_boxes(name: str) -> None:
    result = augmented(
        v2.Compose([build(name), v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes()]), 0, proposals=True
    )
    check_in_step(result)
    height, width = result["image"].shape[-2:]
    assert ((result["proposals"] >= 0) & (result["proposals"] <= torch.tensor([width, height] * 2))).all()


@pytest.mark.parametrize("name", ["AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide", "FiveCrop", "TenCrop"])
def test_other_transforms_refuse_boxes(name: str) -> None:
    arguments = (20,) if "Crop" in name else ()
    with pytest.raises((TypeError, ValueError), match="not supported"):
        augmented(vars(v2)[name](*arguments), 0)


def test_sanitizing_drops_small_objects_and_small_proposals() -> None:
    result = augmented(v2.SanitizeBoundingBoxes(min_size=5), 0, proposals=True)
    assert result["target"]["labels"].tolist() == [1, 2, 3, 4]
    assert result["proposals"].tolist() == [[0, 0, 80, 64]]
    assert SanitizeObjects(min_area=200)(as_tv_tensors(sample(False)))["target"]["labels"].tolist() == [2, 4]


def test_users_transform_is_not_changed() -> None:
    container = v2.RandomApply(torch.nn.ModuleList([v2.SanitizeBoundingBoxes()]))
    assert type(keep_in_step(container).transforms[0]) is SanitizeObjects
    assert type(container.transforms[0]) is v2.SanitizeBoundingBoxes


def test_converted_boxes_return_to_corners() -> None:
    plain = augmented(v2.Identity(), 0)
    assert torch.equal(augmented(v2.ConvertBoundingBoxFormat("XYWH"), 0)["target"]["boxes"], plain["target"]["boxes"])


def test_transform_after_pure_tensors_still_moves_boxes() -> None:
    flipped = augmented(v2.Compose([v2.ToPureTensor(), v2.RandomHorizontalFlip(1.0)]), 0)["target"]["boxes"]
    assert flipped[0].tolist() == [80 - 12, 3, 80 - 2, 11]


def test_own_transform_that_drops_boxes_alone_is_refused() -> None:
    class Halve(v2.Transform):
        def forward(self, one: dict[str, Any]) -> dict[str, Any]:
            half: Tensor = one["target"]["boxes"][:2]
            return one | {"target": one["target"] | {"boxes": half}}

    with pytest.raises(UsageError, match=r"data\.augment: a transform left 2 boxes, but {'labels': 5, .*'masks': 5}"):
        augmented(Halve(), 0)


def test_boxes_converted_to_integers_are_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.augment: a transform made the boxes torch\.uint8"):
        augmented(v2.ConvertImageDtype(torch.uint8), 0)


@pytest.mark.parametrize("proposals", [None, GridProposals()])
def test_torchvisions_detection_recipe_trains(tmp_path: Path, proposals: Any) -> None:
    augment = [v2.RandomPhotometricDistort(), v2.RandomCrop(40), v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes()]
    root = str(coco_detection(tmp_path, ending=".png"))
    data = CocoDetection(root=root, augment=augment, proposals=proposals, masks=True, num_workers=0, batch_size=5)
    data.setup("fit")
    for target in next(iter(data.train_dataloader()))["target"]:
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"]) == len(target["iscrowd"])
        assert "area" not in target  # augmentation would not change it
