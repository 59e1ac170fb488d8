"""VisionDataModule: splits, loaders and normalization. Subclasses define ``dataset(split)``."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torchvision.transforms import v2

from darkroom.datamodules.bad_samples import (
    BAD_SAMPLES_FILE,
    BadSamples,
    SkippingDataset,
    SubstitutingDataset,
    collate_readable,
)
from darkroom.datamodules.datasets import name_of, processor_count, unwrap
from darkroom.datamodules.io.image_files import MAX_PIXELS, fast_decoders
from darkroom.datamodules.io.pixel_scale import PixelScale
from darkroom.datamodules.io.read_images import ImageReader
from darkroom.datamodules.loading import (
    AUGMENT_KEYS,
    KeyedDataset,
    KeyedSamples,
    ResumableLoader,
    SeededSampler,
    collate,
)
from darkroom.datamodules.prediction.photos import Photos, is_video
from darkroom.datamodules.prediction.sources import find_sources
from darkroom.datamodules.transforms.ignore_filled import IgnoreFilled, states_mask_fill
from darkroom.datamodules.transforms.on_device import DeviceAugmentation
from darkroom.errors import DataError, UsageError
from darkroom.protocols import BatchedDataset, SizedDataset

LabelledSplit = Literal["train", "val", "test"]
Split = Literal["train", "val", "test", "predict"]
LABELLED_SPLITS: tuple[LabelledSplit, ...] = ("train", "val", "test")
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std, per channel

# Mean and standard deviation of ImageNet, by number of channels; those of one channel are averages.
_IMAGENET: dict[int, Statistics] = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}


_SPLITS_OF: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class VisionDataModule(LightningDataModule):
    """Base of all data sets: uint8 batches from the loader, float32 normalized on the device, reproducible order.

    Subclasses define ``class_names`` and ``image_shape``, and return a map-style data set of dicts from
    ``dataset(split)`` (keys and shapes: see README, "The batch"). Training samples pass ``fit_to_batch``, then
    ``augment``. Samples of every split pass ``finish`` last; photos do not.

    Args:
        batch_size: samples per batch and rank in training.
        eval_batch_size: samples per batch and rank in validation, test and prediction; None: ``batch_size``.
        num_workers: loader processes per rank; None: available processors minus two, divided by ranks, at most 8.
        seed: of order, augmentation and random splits; ``seed_everything`` seeds the initial weights.
        mean, std: per channel in [0, 1]; the normalization subtracts and divides by them. Default: ImageNet's (their
            averages for grey images).
        augment: ``torchvision.transforms.v2`` transforms, applied in turn to training samples; []: none; None: the default
            of the data set. Mask pixels that they fill are ignored (255), unless a transform states a fill of masks.
        augment_on_device: apply ``augment`` to batches, on the GPU.
        predict: images and videos for ``darkroom predict``: a file, a folder, also with folders inside it, a pattern such
            as ``'photos/*.jpg'``, or a list of these; None: predict on the test split.
        max_side: largest longer side in pixels; larger images and their masks are scaled down to it, in every split.
        max_pixels: largest height times width of an image or mask; larger files are an error, since a damaged or malicious
            header may fill the memory.
        max_value: pixel value that becomes white (255) in images with more than 8 bits per channel, such as 4095 for 12
            bits, and in floating-point images, such as 1.0; larger values become white too. None: the largest value of 8,
            10, 12, 14 or 16 bits that the training images reach; floating-point images are an error.
        on_bad_sample: a sample that cannot be read is damaged, missing, or does not fit its mask or annotation. "error"
            stops the run. "skip" replaces it in training by another one, chosen by (seed, epoch, index), and leaves it out
            elsewhere; ``bad_samples.tsv`` in the run's folder lists skipped samples, ``<split>/bad_samples`` counts them.
        bad_sample_budget: number of different samples of a split that a run may skip; one more is an error.
    """

    image_shape: tuple[int, int, int]
    augments_on_device: ClassVar[bool] = True  # False: augment_on_device is an error
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
        predict: str | list[str] | None = None,
        max_side: int | None = None,
        max_pixels: int = MAX_PIXELS,
        max_value: float | None = None,
        on_bad_sample: Literal["error", "skip"] = "error",
        bad_sample_budget: int = 100,
        augment_on_device: bool = False,
    ) -> None:
        super().__init__()
        counts = {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
        counts |= {"max_side": max_side, "max_pixels": max_pixels}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise UsageError(f"data.{name} must be at least 1, got {value}")
        self._mean_std: Statistics | None = None
        if mean is not None and std is not None and len(mean) == len(std) and min(std) > 0:
            self._mean_std = tuple(mean), tuple(std)
        elif mean is not None or std is not None:
            raise UsageError(
                f"data.mean and data.std must be given together, a positive std for every mean, got {mean} and {std}"
            )
        if bad_sample_budget < 0:
            raise UsageError(f"data.bad_sample_budget must be at least 0, got {bad_sample_budget}")
        self.bad_samples = BadSamples(bad_sample_budget) if on_bad_sample == "skip" else None
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.num_workers, self.seed, self.predict, self.max_side = num_workers, seed, predict, max_side
        self.max_pixels, self.pixel_scale = max_pixels, PixelScale(max_value)
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self.augment, self.augment_on_device = augment, augment_on_device
        self._augmentation: DeviceAugmentation | None = None
        self._datasets: dict[Split, KeyedSamples] = {}

    # --- hooks of a data set ------------------------------------------------------------------------------------------

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Names of the classes in the order of their ids; subclasses override it by an attribute or a property."""
        raise AttributeError(f"{type(self).__name__} has no class_names")

    def restore_classes(self, names: Sequence[str], category_ids: Sequence[int] | None) -> None:
        """Set the classes of a checkpoint, for photos on a machine without the training data.

        Args:
            names: in the order of the labels.
            category_ids: of the labels, in data that have them; None: the labels themselves.
        """
        self.class_names = tuple(names)

    def dataset(self, split: Split) -> SizedDataset:
        """Return the map-style data set of a split: dicts of uint8 tensors (and str), addressed by int."""
        raise UsageError(f"{type(self).__name__} has no {split} data")

    def open_dataset(self, split: Split) -> SizedDataset:
        """Return ``dataset(split)`` for use without a loader; with on_bad_sample "skip", bad samples are replaced."""
        dataset = self.dataset(split)
        if self.bad_samples is None or isinstance(dataset, BatchedDataset):  # in memory: no read failures
            return dataset
        return SubstitutingDataset(dataset, self.seed, partial(self.bad_samples.note, split))

    def image_reader(self, paths: Sequence[Path], split: str) -> ImageReader:
        """Return the reader of the images of a split. If they have more than 8 bits, all splits have one scale."""
        fast_decoders()  # imported here, once, instead of in every worker process
        self.pixel_scale.decide(paths, split, self.max_pixels)
        return ImageReader(self.image_shape[0], self.pixel_scale, self.max_pixels)

    def default_augment(self) -> list[v2.Transform]:
        """Return the transforms for training if ``augment`` is None."""
        return []

    def adapt_augment(self, augment: list[v2.Transform]) -> list[v2.Transform]:
        """Return the user's transforms with what the annotations need: ignored mask pixels where they fill a mask."""
        return augment if not augment or any(map(states_mask_fill, augment)) else [IgnoreFilled(augment)]

    def fit_to_batch(self) -> list[v2.Transform]:
        """Return the transforms that bring training samples to one size, applied before ``augment`` in any case."""
        return []

    def finish(self, split: Split) -> list[v2.Transform]:
        """Return the transforms after ``augment``, in any split, that compute entries from the final image."""
        return []

    def prepare_dataset(self, dataset: SizedDataset) -> SizedDataset:
        """Return the data set of a split, or of photos, with cached entries added, such as proposals."""
        return dataset

    def default_statistics(self) -> Statistics:
        """Return mean and std of the normalization if ``mean`` and ``std`` are None."""
        return _IMAGENET[self.image_shape[0]]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel that the normalization subtracts, in [0, 1]."""
        return (self._mean_std or self.default_statistics())[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel that the normalization divides by, in the same unit as the mean."""
        return (self._mean_std or self.default_statistics())[1]

    @property
    def value_range(self) -> tuple[float, float]:
        """Least and greatest value of a normalized image, over all channels."""
        scales = list(zip(self.mean, self.std, strict=True))
        return min((0 - mean) / std for mean, std in scales), max((1 - mean) / std for mean, std in scales)

    # --- splits and loaders -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if len(self.mean) != self.image_shape[0]:
            raise UsageError(
                f"data.mean must have {self.image_shape[0]} values, one per channel of the images, got {len(self.mean)}"
            )
        module = self.trainer.lightning_module if self.trainer else None
        if module is not None and is_overridden("on_after_batch_transfer", module):
            raise UsageError(
                f"{type(module).__name__} overrides on_after_batch_transfer, but the datamodule normalizes; remove the "
                "hook and set data.mean and data.std"
            )
        if self.bad_samples is not None and self.trainer is not None:
            self.bad_samples.path = Path(self.trainer.log_dir or self.trainer.default_root_dir, BAD_SAMPLES_FILE)
        if self.augment_on_device and "train" in _SPLITS_OF[stage]:
            self._augmentation = self._device_augmentation()
        for split in _SPLITS_OF[stage]:  # the Trainer's stage is an enum: equal to the keys, but formatted differently
            dataset, transforms = self._source(split)
            if len(dataset) == 0:
                raise DataError(
                    f"the {split} split of {type(self).__name__} is empty; it must have at least one sample"
                )
            if split != "predict" and self.trainer and len(dataset) < self.trainer.world_size:
                raise DataError(
                    f"the {split} split of {type(self).__name__} has {len(dataset)} samples for {self.trainer.world_size} "
                    "ranks; use fewer devices or more data, at least one sample per rank"
                )
            dataset = self.prepare_dataset(dataset)
            keys = split == "train" and self._augmentation is not None
            augment = v2.Compose(transforms) if transforms else None
            self._datasets[split] = KeyedDataset(dataset, augment, self.seed, keys=keys)

    def teardown(self, stage: str) -> None:
        if self.bad_samples is not None:
            self.bad_samples.report()

    def state_dict(self) -> dict[str, Any]:
        return self.pixel_scale.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.pixel_scale.load_state_dict(state_dict)

    def _source(self, split: Split) -> tuple[SizedDataset, list[v2.Transform]]:
        """Return the samples of a split, or the photos of ``predict``, and their transforms."""
        if split == "predict" and self.predict is not None:
            paths = find_sources(self.predict)
            if any(map(is_video, paths)) and self.trainer and self.trainer.world_size > 1:
                raise UsageError(
                    f"data.predict: {next(filter(is_video, paths))} is a video, which one process reads; trainer.devices "
                    "and trainer.num_nodes must be 1"
                )
            reader = self.image_reader([path for path in paths if not is_video(path)], split)
            return Photos(paths, reader, self.max_side), []
        return self.dataset(split), self._transforms(split)

    def _transforms(self, split: Split) -> list[v2.Transform]:
        if split != "train":
            return self.finish(split)
        return self.fit_to_batch() + ([] if self.augment_on_device else self._augment()) + self.finish(split)

    def _augment(self) -> list[v2.Transform]:
        return self.default_augment() if self.augment is None else self.adapt_augment(self.augment)

    def _device_augmentation(self) -> DeviceAugmentation | None:
        """Return the augmentation of batches on their device, None without transforms."""
        if not self.augments_on_device or self.finish("train"):
            raise UsageError(
                f"data.augment_on_device must be false for {type(self).__name__} with these options: a transform after the "
                "augmentation needs the final sample in the loader"
            )
        transforms = self._augment()
        # Transforms in the loader use the generator of the seed: others must not repeat its numbers.
        key = (self.seed, 1) if self.fit_to_batch() else (self.seed,)
        return DeviceAugmentation(transforms, key) if transforms else None

    def _sampler(self, split: Split) -> SeededSampler:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        length = len(self._datasets[split])
        return SeededSampler(length, shuffle=split == "train", seed=self.seed, rank=rank, world_size=world_size)

    def _loader(self, split: Split) -> ResumableLoader:
        sampler, train = self._sampler(split), split == "train"
        workers = self.num_workers
        if workers is None:
            workers = min(8, max(0, processor_count() - 2) // (self.trainer.num_devices if self.trainer else 1))
        batch_size = self.batch_size if train else self.eval_batch_size
        samples = unwrap(self._datasets[split].dataset)
        if isinstance(samples, Photos):
            batch_size = batch_size if samples.have_one_size else 1
            # FFmpeg decodes ahead in threads of its own, which do not survive in forked workers.
            workers = 0 if samples.has_videos else workers
        dataset: KeyedSamples | SkippingDataset = self._datasets[split]
        to_batch: Callable[[Any], dict[str, Any]] = partial(collate, unstacked=self.unstacked | {AUGMENT_KEYS})
        on_bad_samples = None
        if self.bad_samples is not None:
            dataset = SkippingDataset(self._datasets[split], self.seed, replace=train)
            to_batch = partial(collate_readable, collate=to_batch)
            on_bad_samples = partial(self.bad_samples.note, split)
        return ResumableLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=train and len(sampler) >= batch_size,  # batch norm cannot train on a single sample
            collate_fn=to_batch,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            on_bad_samples=on_bad_samples,
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
        """Return the names of the samples of a training batch of this rank: their files, or their indices."""
        loader = (self.trainer.train_dataloader if self.trainer else None) or self.train_dataloader()
        indices = loader.indices_of(epoch, batch_idx)
        return ", ".join(name_of(self._datasets["train"].dataset, index) for index in indices)

    # --- normalization, in this file alone ----------------------------------------------------------------------------

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return 255 * mean and 255 * std, float32 (C, 1, 1); cached, because a copy to the device synchronizes."""
        if device not in self._on_device:
            mean, std = (torch.tensor(s, device=device).view(-1, 1, 1) * 255 for s in (self.mean, self.std))
            self._on_device[device] = mean, std
        return self._on_device[device]

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int = 0) -> dict[str, Any]:
        """Augment a training batch, if that is done on its device, and convert it.

        uint8 images are normalized to the network's float type, masks become int64, and masks of objects bool.
        """
        if AUGMENT_KEYS in batch and self._augmentation is not None:
            batch = self._augmentation(batch)
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
        """Undo the normalization: float (..., C, H, W) as a network sees it -> float32 in [0, 1]."""
        mean, std = self._statistics(image.device)
        return ((image.float() * std + mean) / 255).clamp(0, 1)
