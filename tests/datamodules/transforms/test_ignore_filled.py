"""Mask pixels that augmentation fills are ignored."""

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.datamodules.transforms.ignore_filled import IgnoreFilled, states_mask_fill

FILLING = [
    v2.RandomRotation((30, 30)),
    v2.RandomAffine(0, translate=(0.4, 0.4), scale=(0.5, 0.5)),
    v2.RandomPerspective(0.6, p=1.0),
    v2.RandomZoomOut(p=1.0),
    v2.Pad(4),
    v2.CenterCrop(40),
    v2.RandomCrop(40, pad_if_needed=True),
    v2.Compose([v2.RandomApply([v2.RandomRotation((45, 45))], p=1.0)]),
]
STILL = [
    v2.RandomHorizontalFlip(1.0),
    v2.RandomVerticalFlip(1.0),
    v2.ColorJitter(0.5),
    v2.RandomCrop(16),
    v2.Resize(16),
]


def sample() -> dict:
    image, mask = torch.full((3, 32, 32), 9, dtype=torch.uint8), torch.full((32, 32), 2, dtype=torch.uint8)
    return {"image": tv_tensors.Image(image), "mask": tv_tensors.Mask(mask)}


@pytest.mark.parametrize("transform", FILLING, ids=lambda one: type(one).__name__)
def test_filled_pixels_become_255(transform: v2.Transform) -> None:
    torch.manual_seed(0)
    augmented = IgnoreFilled([transform])(sample())
    assert set(augmented) == {"image", "mask"}
    assert augmented["mask"].unique().tolist() == [2, 255]
    assert augmented["mask"].shape == augmented["image"].shape[1:]


@pytest.mark.parametrize("transform", STILL, ids=lambda one: type(one).__name__)
def test_transform_without_fill_changes_no_value(transform: v2.Transform) -> None:
    assert IgnoreFilled([transform])(sample())["mask"].unique().tolist() == [2]


def test_image_and_random_state_are_those_of_the_plain_transform() -> None:
    transform = v2.RandomAffine(45, translate=(0.2, 0.2))
    torch.manual_seed(3)
    plain = transform(sample())["image"]
    torch.manual_seed(3)
    assert torch.equal(IgnoreFilled([transform])(sample())["image"], plain)


def test_datamodule_ignores_what_its_augment_fills() -> None:
    data = ShapesSegmentation(train_size=2, val_size=1, num_workers=0, side=32, augment=[v2.RandomRotation((40, 40))])
    data.setup("fit")
    mask = next(iter(data.train_dataloader()))["mask"]
    corners = mask[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all()


def test_stated_fill_of_masks_is_kept() -> None:
    stated = v2.RandomRotation((40, 40), fill={tv_tensors.Image: 0, tv_tensors.Mask: 0})
    assert states_mask_fill(v2.Compose([stated]))
    data = ShapesSegmentation(train_size=2, val_size=1, num_workers=0, side=32, augment=[stated])
    data.setup("fit")
    assert (next(iter(data.train_dataloader()))["mask"] != 255).all()
