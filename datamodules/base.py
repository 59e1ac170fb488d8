"""VisionDataModule: loaders, normalisation and the facts about a data set. A data set adds ``dataset(split)``."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from darkroom.datamodules.bad_samples import BAD_SAMPLES_FILE, BadSamples, Skipping, StandingIn, collate_found, name_of
from darkroom.datamodules.io.read_images import PhotoFolder
from darkroom.datamodules.loading import KeyedDataset, ResumableLoader, SeededSampler, collate
from darkroom.errors import DataError, UsageError

Split = Literal["train", "val", "test", "predict"]


# ImageNet's mean and standard deviation, and what they are for one channel.
_MEAN_STD = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}


class VisionDataModule(LightningDataModule):
    """Base of all data sets: uint8 batches from the loader, float32 normalised on the device, reproducible order.

    A data set states ``num_classes``, ``class_names``, ``image_shape`` and returns a map-style data set of dicts (keys and
    shapes: see README, "The batch") from ``dataset(split)``. Training samples go through ``fit_to_batch``, then
    ``augment``; samples of every split, but not photos, last through ``finish``.

    Args:
        batch_size: samples per batch and rank in training.
        eval_batch_size: the same for validation, test and prediction; None: as in training.
        num_workers: loader processes per rank; None: the processors at hand less two, shared among ranks, at most eight.
        seed: decides order, augmentation and random splits (not the network's initial weights: ``seed_everything``).
        mean, std: per channel in [0, 1]; what the normalisation subtracts and divides by. Default: ImageNet's (their
            average for grey images).
        augment: ``torchvision.transforms.v2`` transforms, applied in turn to training samples; [] for none, None for the
            data set's own default.
        predict_dir: folder of photos for ``darkroom predict``; None: predict on the test split.
        max_side: images whose longer side is larger are scaled down to it, masks with them, in every split.
        on_bad_sample: a sample that cannot be read (damaged, missing, not fitting its mask or its annotation) is an
            "error"; or ("skip") in training another one, drawn by (seed, epoch, index), stands in for it, and elsewhere it
            is left out. ``bad_samples.tsv`` in the run's folder lists what was skipped, ``<split>/bad_samples`` counts it.
        bad_sample_budget: how many different samples of a split a run may skip; one more is an error.
    """

    class_names: Sequence[str]
    image_shape: tuple[int, int, int]
    unstacked: ClassVar[frozenset[str]] = frozenset({"proposals"})  # entries of a batch that are lists

    def __init__(
        self,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: list[v2.Transform] | None = None,
        predict_dir: str | None = None,
        max_side: int | None = None,
        on_bad_sample: Literal["error", "skip"] = "error",
        bad_sample_budget: int = 100,
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "max_side": max_side}.items():
            if value is not None and value < 1:
                raise UsageError(f"data.{name} is {value}; it must be at least 1")
        if (mean is None) != (std is None) or (std is not None and (len(mean) != len(std) or min(std) <= 0)):
            raise UsageError(f"data.mean {mean} and data.std {std} need each other: one positive std for every mean")
        if bad_sample_budget < 0:
            raise UsageError(f"data.bad_sample_budget is {bad_sample_budget}; it must not be negative")
        self.bad_samples = BadSamples(bad_sample_budget) if on_bad_sample == "skip" else None
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.num_workers, self.seed, self.predict_dir, self.max_side = num_workers, seed, predict_dir, max_side
        self._mean_std = None if mean is None else (tuple(mean), tuple(std))
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self.augment = augment
        self._datasets: dict[str, Dataset] = {}

    # --- what a data set adds -----------------------------------------------------------------------------------------

    def dataset(self, split: Split) -> Dataset:
        """Map-style data set of one split: dicts of uint8 tensors (and str), addressed by int."""
        raise UsageError(f"{type(self).__name__} has no {split} data")

    def readable(self, split: Split) -> Dataset:
        """``dataset(split)`` for what goes through it without a loader, bad samples replaced if they are to be skipped."""
        dataset = self.dataset(split)
        if self.bad_samples is None or hasattr(dataset, "__getitems__"):  # that one lies in memory
            return dataset
        return StandingIn(dataset, self.seed, partial(self.bad_samples.note, split))

    def default_augment(self) -> list[v2.Transform]:
        """Transforms for training when ``augment`` is None."""
        return []

    def fit_to_batch(self) -> list[v2.Transform]:
        """Transforms that bring training samples to one size, before ``augment``; always applied."""
        return []

    def finish(self, split: Split) -> list[v2.Transform]:
        """Transforms for the samples of any split, after ``augment``: what must be computed from the final picture."""
        return []

    def supplied(self, dataset: Dataset) -> Dataset:
        """The data set of a split, or of photos, with what must be computed once for every picture and kept."""
        return dataset

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def mean(self) -> tuple[float, ...]:
        return (self._mean_std or _MEAN_STD[self.image_shape[0]])[0]

    @property
    def std(self) -> tuple[float, ...]:
        return (self._mean_std or _MEAN_STD[self.image_shape[0]])[1]

    @property
    def value_range(self) -> tuple[float, float]:
        """What the normalisation makes of 0 and of 1: the least and the greatest value that a network can see."""
        scales = list(zip(self.mean, self.std, strict=True))
        return min((0 - mean) / std for mean, std in scales), max((1 - mean) / std for mean, std in scales)

    # --- splits and loaders -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if len(self.mean) != self.image_shape[0]:
            raise UsageError(
                f"data.mean has {len(self.mean)} values, but the images have {self.image_shape[0]} channels"
            )
        module = self.trainer.lightning_module if self.trainer else None
        if module is not None and is_overridden("on_after_batch_transfer", module):
            raise UsageError(
                f"{type(module).__name__} overrides on_after_batch_transfer; normalisation is the datamodule's alone: "
                "set data.mean and data.std instead"
            )
        if self.bad_samples is not None and self.trainer is not None:
            self.bad_samples.path = Path(self.trainer.log_dir or self.trainer.default_root_dir, BAD_SAMPLES_FILE)
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}
        for split in splits[stage]:  # the Trainer's stage is an enum: equal to these, but written otherwise in a path
            if split == "predict" and self.predict_dir is not None:
                dataset, transforms = PhotoFolder(Path(self.predict_dir), self.image_shape[0], self.max_side), []
            else:
                dataset, transforms = self.dataset(split), self._transforms(split)
            if len(dataset) == 0:
                raise DataError(f"the {split} split of {type(self).__name__} is empty; it needs at least one sample")
            if split != "predict" and self.trainer and len(dataset) < self.trainer.world_size:
                raise DataError(
                    f"the {split} split of {type(self).__name__} has {len(dataset)} samples for {self.trainer.world_size} "
                    "ranks; every rank needs one: use fewer devices, or more data"
                )
            dataset = self.supplied(dataset)
            self._datasets[split] = KeyedDataset(dataset, v2.Compose(transforms) if transforms else None, self.seed)

    def teardown(self, stage: str) -> None:
        if self.bad_samples is not None:
            self.bad_samples.report()

    def _transforms(self, split: Split) -> list[v2.Transform]:
        if split != "train":
            return self.finish(split)
        augment = self.default_augment() if self.augment is None else self.augment
        return self.fit_to_batch() + augment + self.finish(split)

    def _sampler(self, split: Split) -> SeededSampler:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        length = len(self._datasets[split])
        return SeededSampler(length, shuffle=split == "train", seed=self.seed, rank=rank, world_size=world_size)

    def _loader(self, split: Split) -> ResumableLoader:
        sampler, train = self._sampler(split), split == "train"
        workers = self.num_workers
        if workers is None:
            cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            workers = min(8, max(0, cpus - 2) // (self.trainer.num_devices if self.trainer else 1))
        batch_size = self.batch_size if train else self.eval_batch_size
        if split == "predict" and self.predict_dir is not None:
            batch_size = 1  # photos have all sizes
        dataset, to_batch, told = self._datasets[split], partial(collate, unstacked=self.unstacked), None
        if self.bad_samples is not None:
            dataset = Skipping(dataset, self.seed, replace=train)
            to_batch, told = partial(collate_found, collate=to_batch), partial(self.bad_samples.note, split)
        return ResumableLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=train and len(sampler) >= batch_size,  # a lone last sample would upset batch norm
            collate_fn=to_batch,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            on_bad_samples=told,
        )

    def train_dataloader(self) -> ResumableLoader:
        return self._loader("train")

    def val_dataloader(self) -> ResumableLoader:
        return self._loader("val")

    def test_dataloader(self) -> ResumableLoader:
        return self._loader("test")

    def predict_dataloader(self) -> ResumableLoader:
        return self._loader("predict")

    def describe_batch(self, epoch: int, batch_idx: int) -> str:
        """Names the samples of a training batch of this rank: their files, or their indices."""
        sampler = self.trainer.train_dataloader.sampler  # Lightning replaces ours for overfit_batches
        order = sampler.order(epoch) if isinstance(sampler, SeededSampler) else list(sampler)
        indices = order[batch_idx * self.batch_size : (batch_idx + 1) * self.batch_size]
        return ", ".join(name_of(self._datasets["train"].dataset, index) for index in indices)

    # --- normalisation: the one place ---------------------------------------------------------------------------------

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """255 mean and 255 std, float32 (C, 1, 1); made once per device, because copying them there waits for it."""
        if device not in self._on_device:
            self._on_device[device] = tuple(
                torch.tensor(s, device=device).view(-1, 1, 1) * 255 for s in (self.mean, self.std)
            )
        return self._on_device[device]

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int = 0) -> dict[str, Any]:
        """On the device: uint8 images to the network's float type, normalised; masks to int64, those of objects to bool."""
        image = batch["image"]
        batch["image"] = [self._normalize(one) for one in image] if isinstance(image, list) else self._normalize(image)
        if "mask" in batch:
            batch["mask"] = batch["mask"].long()
        for target in batch.get("target", ()):
            if "masks" in target:
                target["masks"] = target["masks"].bool()
        return batch

    def _normalize(self, image: Tensor) -> Tensor:
        if image.dtype != torch.uint8:
            return image
        mean, std = self._statistics(image.device)
        image = image.float().sub_(mean).div_(std)
        module = self.trainer.lightning_module if self.trainer else None
        return image.to(module.dtype) if module is not None else image

    def denormalize(self, image: Tensor) -> Tensor:
        """Undoes the normalisation: float (..., C, H, W) as a network sees it -> float32 in [0, 1]."""
        mean, std = self._statistics(image.device)
        return ((image.float() * std + mean) / 255).clamp(0, 1)
