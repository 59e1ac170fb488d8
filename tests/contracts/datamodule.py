"""Contract of every datamodule. Inherit, and define ``build``."""

from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.datamodules.base import Split, VisionDataModule
from darkroom.datamodules.loading import ResumableLoader, SeededSampler, collate


def set_epoch(loader: ResumableLoader, epoch: int) -> None:
    """Set the epoch of a loader, as Lightning does."""
    assert isinstance(loader.sampler, SeededSampler)
    loader.sampler.set_epoch(epoch)


class DataModuleContract:
    """Inherit as ``class TestMyData(DataModuleContract)``; ``build`` may write its files into ``tmp_path``."""

    def build(self, tmp_path: Path, **kwargs: Any) -> VisionDataModule:
        raise NotImplementedError

    @pytest.fixture
    def data(self, tmp_path: Path) -> VisionDataModule:
        data = self.build(tmp_path, batch_size=2, num_workers=0)
        for stage in ("fit", "test", "predict"):
            data.setup(stage)
        return data

    def loaders(self, data: VisionDataModule) -> dict[str, Any]:
        return {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}

    def test_attributes_are_consistent(self, data: VisionDataModule) -> None:
        assert data.num_classes == len(data.class_names) >= 2
        assert len(data.image_shape) == 3
        assert len(data.mean) == len(data.std) == data.image_shape[0]

    def test_loaders_return_uint8_images(self, data: VisionDataModule) -> None:
        for loader in self.loaders(data).values():
            batch = next(iter(loader))
            assert batch["image"].dtype == torch.uint8
            assert batch["image"].shape[1] == data.image_shape[0]

    def test_training_batch_has_stated_shape(self, data: VisionDataModule) -> None:
        assert next(iter(data.train_dataloader()))["image"].shape == (2, *data.image_shape)

    def test_normalization_is_idempotent_and_invertible(self, data: VisionDataModule) -> None:
        batch = next(iter(data.train_dataloader()))
        original = batch["image"].float() / 255
        normalised = data.on_after_batch_transfer(dict(batch))["image"]
        assert normalised.dtype == torch.float32
        mean, std = (torch.tensor(s).view(-1, 1, 1) for s in (data.mean, data.std))
        torch.testing.assert_close(normalised, (original - mean) / std)
        torch.testing.assert_close(data.denormalize(normalised), original)
        again = data.on_after_batch_transfer({"image": normalised.clone()})["image"]
        assert torch.equal(again, normalised)

    def test_samples_do_not_depend_on_workers(self, tmp_path: Path) -> None:
        batches = []
        for number, workers in enumerate((0, 2)):
            data = self.build(tmp_path / str(number), batch_size=2, num_workers=workers)
            data.setup("fit")
            loader = data.train_dataloader()
            set_epoch(loader, 3)
            torch.manual_seed(number)  # the global generator has no effect
            batches.append([batch["image"] for batch in loader])
        assert len(batches[0]) == len(batches[1]) > 0
        assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))

    def test_samples_depend_on_epoch_and_repeat(self, data: VisionDataModule) -> None:
        loader, seen = data.train_dataloader(), []
        for epoch in (0, 1, 0):
            set_epoch(loader, epoch)
            seen.append(torch.cat([batch["image"] for batch in loader]))
        assert torch.equal(seen[0], seen[2])
        assert not torch.equal(seen[0], seen[1])

    def test_splits_are_disjoint(self, data: VisionDataModule) -> None:
        images: dict[Split, set[bytes]] = {"train": set(), "val": set(), "test": set()}
        for split, found in images.items():
            dataset = data._datasets[split].dataset
            found.update(dataset[index]["image"].numpy().tobytes() for index in range(len(dataset)))
        assert not images["train"] & images["val"]
        assert not images["train"] & images["test"]
        if not getattr(self, "val_is_test", False):
            assert not images["val"] & images["test"]


class SegmentationDataContract(DataModuleContract):
    """Contract of images with segmentation masks."""

    def test_masks_contain_classes_or_ignore(self, data: VisionDataModule) -> None:
        for loader in self.loaders(data).values():
            for batch in loader:
                assert batch["mask"].dtype == torch.uint8
                assert batch["mask"].shape == (len(batch["image"]), *batch["image"].shape[-2:])
                assert ((batch["mask"] < data.num_classes) | (batch["mask"] == 255)).all()
        assert data.on_after_batch_transfer(batch)["mask"].dtype == torch.int64


class DetectionDataContract(DataModuleContract):
    """Contract of images with boxes; batches are lists. Inherit, and define ``build``."""

    def test_attributes_are_consistent(self, data: VisionDataModule) -> None:
        assert data.num_classes == len(data.class_names) >= 1
        assert data.image_shape[0] == 3
        assert (data.mean, data.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def test_loaders_return_uint8_images(self, data: VisionDataModule) -> None:
        for loader in self.loaders(data).values():
            for image in next(iter(loader))["image"]:
                assert image.dtype == torch.uint8
                assert image.shape[0] == 3

    def test_training_batch_has_stated_shape(self, data: VisionDataModule) -> None:
        batch = next(iter(data.train_dataloader()))
        assert len(batch["image"]) == len(batch["target"]) == 2

    def test_normalization_is_idempotent_and_invertible(self, data: VisionDataModule) -> None:
        batch = next(iter(data.train_dataloader()))
        original = [image.float() / 255 for image in batch["image"]]
        normalised = data.on_after_batch_transfer(dict(batch))["image"]
        for image, expected in zip(normalised, original, strict=True):
            torch.testing.assert_close(image, expected)
            torch.testing.assert_close(data.denormalize(image), expected)

    def test_samples_do_not_depend_on_workers(self, tmp_path: Path) -> None:
        batches = []
        for number, workers in enumerate((0, 2)):
            data = self.build(tmp_path / str(number), batch_size=2, num_workers=workers)
            data.setup("fit")
            loader = data.train_dataloader()
            set_epoch(loader, 3)
            torch.manual_seed(number)  # the global generator has no effect
            batches.append(
                [
                    (image, target["boxes"])
                    for b in loader
                    for image, target in zip(b["image"], b["target"], strict=True)
                ]
            )
        assert len(batches[0]) == len(batches[1]) > 0
        for (image, boxes), (same, same_boxes) in zip(*batches, strict=True):
            assert torch.equal(image, same)
            assert torch.equal(boxes, same_boxes)

    def test_samples_depend_on_epoch_and_repeat(self, data: VisionDataModule) -> None:
        loader, seen = data.train_dataloader(), []
        for epoch in (0, 1, 0):
            set_epoch(loader, epoch)
            seen.append([image for batch in loader for image in batch["image"]])
        assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))
        assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))

    def test_targets_contain_valid_boxes(self, data: VisionDataModule) -> None:
        for stage, loader in self.loaders(data).items():
            for batch in loader:
                for image, target in zip(batch["image"], batch["target"], strict=True):
                    boxes, labels, count = target["boxes"], target["labels"], len(target["labels"])
                    assert type(boxes) is torch.Tensor
                    assert boxes.shape == (count, 4)
                    assert boxes.dtype == torch.float32
                    assert labels.dtype == torch.int64
                    assert isinstance(target["image_id"], int)
                    if count:
                        assert 1 <= labels.min() <= labels.max() <= data.num_classes
                        assert (boxes[:, 2:] > boxes[:, :2]).all()
                        assert boxes.min() >= 0
                        assert (boxes[:, 2:] <= torch.tensor(image.shape[:-3:-1])).all()
                    if "masks" in target:
                        assert target["masks"].shape == (count, *image.shape[-2:])
                        assert target["masks"].dtype == torch.uint8
                    if stage == "train" and "iscrowd" in target:
                        assert not target["iscrowd"].any()


class LabelledDataContract(DataModuleContract):
    """Contract of images with one class label."""

    def test_images_are_normalized_to_minus_one_to_one(self, data: VisionDataModule) -> None:
        assert data.value_range == (-1.0, 1.0)
        batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())))
        assert -1 <= batch["image"].min() < batch["image"].max() <= 1

    def test_images_have_one_size_in_every_split(self, data: VisionDataModule) -> None:
        for split in ("train", "val", "test", "predict"):
            assert data._datasets[split].dataset[0]["image"].shape == data.image_shape

    def test_labels_are_class_ids(self, data: VisionDataModule) -> None:
        seen = set()
        for loader in self.loaders(data).values():
            for batch in loader:
                assert batch["label"].dtype == torch.int64
                assert batch["label"].shape == (len(batch["image"]),)
                seen |= set(batch["label"].tolist())
        assert seen <= set(range(data.num_classes))
        assert len(seen) > 1

    def test_sample_does_not_depend_on_batch(self, data: VisionDataModule) -> None:
        dataset = data._datasets["train"]
        batch = collate(dataset.__getitems__([(2, 0), (2, 1)]))
        for index in (0, 1):
            sample = dataset[2, index]
            assert torch.equal(sample["image"], batch["image"][index])
            assert sample["label"] == batch["label"][index]

    def test_mean_and_std_can_be_overridden(self, tmp_path: Path) -> None:
        channels = self.build(tmp_path / "one").image_shape[0]
        data = self.build(tmp_path / "another", mean=[0.0] * channels, std=[1.0] * channels)
        assert data.value_range == (0.0, 1.0)
