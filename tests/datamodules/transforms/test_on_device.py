"""Augmentation of batches on their device: the samples of the loader's augmentation, masks with their images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.captions.caption_text import CaptionSafeFlip
from darkroom.datamodules.images.mnist import DynamicBinarization
from darkroom.datamodules.loading import AUGMENT_KEYS, KeyedDataset
from darkroom.datamodules.segmentation import ImageMaskFolder
from darkroom.datamodules.shapes.captions import ShapesCaptions
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.datamodules.transforms.elastic import ElasticGrid
from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation import UNet
from tests.contracts.datamodule import set_epoch
from tests.contracts.module import trainer

SMALL = {"train_size": 8, "val_size": 4, "test_size": 4, "batch_size": 4, "num_workers": 0, "side": 16}


def transforms() -> list[v2.Transform]:
    return [v2.RandomHorizontalFlip(), v2.RandomRotation(40), v2.ColorJitter(0.5), ElasticGrid(std=2.0)]


def batches(data: VisionDataModule, epoch: int = 0, split: str = "train") -> list[dict[str, Any]]:
    """Return the batches of an epoch as a module gets them."""
    data.setup("fit")
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    set_epoch(loader, epoch)
    return [data.on_after_batch_transfer(batch) for batch in loader]


def assert_equal(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert len(one) == len(other) > 0
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        assert AUGMENT_KEYS not in first
        for name, value in first.items():
            assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name], name


@pytest.mark.parametrize("kind", [ShapesSegmentation, ShapesImages])
def test_samples_are_those_of_the_loader(kind: Any) -> None:
    there = [batches(kind(augment=transforms(), **SMALL), epoch) for epoch in (0, 1)]
    here = [batches(kind(augment=transforms(), augment_on_device=True, **SMALL), epoch) for epoch in (0, 1)]
    for one, other in zip(there, here, strict=True):
        assert_equal(one, other)
    assert not torch.equal(there[0][0]["image"], there[1][0]["image"])


def test_validation_is_not_augmented() -> None:
    plain, here = ({"augment": transforms(), "augment_on_device": value} for value in (False, True))
    assert_equal(
        batches(ShapesImages(**SMALL, **plain), split="val"), batches(ShapesImages(**SMALL, **here), split="val")
    )


def test_without_transforms_batches_are_unchanged() -> None:
    one, other = (ShapesImages(augment=[], augment_on_device=value, **SMALL) for value in (False, True))
    assert_equal(batches(one), batches(other))


def test_masks_follow_images_after_the_crop_of_the_loader(tmp_path: Path) -> None:
    """Check flips after crops: masks equal their images' left half, and half of the samples are flipped."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    left = np.zeros((16, 16), np.uint8)
    left[:, :8] = 1
    for index in range(100):
        Image.fromarray(np.repeat(left[..., None] * 255, 3, 2)).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(left).save(tmp_path / "masks" / f"{index}.png")
    options: dict[str, Any] = {"crop": 16, "batch_size": 8, "num_workers": 0, "mean": [0.0] * 3, "std": [1.0] * 3}
    data = ImageMaskFolder(root=tmp_path, augment_on_device=True, val_fraction=0.1, test_fraction=0.1, **options)
    flipped = []
    for epoch in (0, 1, 2):
        for batch in batches(data, epoch):
            assert torch.equal(batch["image"][:, 0].long(), batch["mask"])
            flipped += (batch["mask"][:, 0, 0] == 0).tolist()
    assert len(flipped) >= 200
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.11)  # three standard deviations of 200 samples


def test_captions_stay_with_their_images() -> None:
    plain = batches(ShapesCaptions(augment=[], **SMALL))
    flipped = batches(ShapesCaptions(augment=[CaptionSafeFlip()], augment_on_device=True, **SMALL))
    sides = []
    for one, other in zip(plain, flipped, strict=True):
        assert list(one["caption"]) == list(other["caption"])
        sides += [torch.equal(*pair) for pair in zip(one["image"], other["image"], strict=True)]
        mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(one["image"], other["image"], strict=True)]
        assert all(map(any, zip(sides[-len(mirrored) :], mirrored, strict=True)))
    assert not all(sides)


def test_fit_trains_with_augmentation_on_the_device(tmp_path: Path) -> None:
    data = ShapesSegmentation(augment=transforms(), augment_on_device=True, **{**SMALL, "side": 32})
    trainer(tmp_path, limit_train_batches=1, limit_val_batches=1).fit(UNet(num_classes=6, base_channels=2), data)


class Unknown(v2.Transform):
    pass


@pytest.mark.parametrize("transform", [Unknown(), v2.RandomApply([v2.JPEG(50)]), v2.Compose([Unknown()])])
def test_transforms_that_compute_on_the_cpu_raise(transform: v2.Transform) -> None:
    with pytest.raises(UsageError, match=r"data.augment has (Unknown|JPEG), which may compute on the CPU only"):
        ShapesImages(augment=[transform], augment_on_device=True, **SMALL).setup("fit")


@pytest.mark.parametrize(("kind", "options"), [(ShapesDetection, {}), (ShapesSegmentation, {"borders": True})])
def test_data_with_transforms_after_the_augmentation_raises(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"data.augment_on_device must be false for {kind.__name__}"):
        kind(augment=transforms(), augment_on_device=True, **SMALL, **options).setup("fit")


def test_dynamic_binarization_raises() -> None:
    with pytest.raises(UsageError, match="must be false with data.binarize dynamic"):
        DynamicBinarization(KeyedDataset([], keys=True), 0)  # type: ignore[arg-type]
