"""Augmentation of samples, determined by (seed, epoch, index), and their collation into batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision import tv_tensors

from darkroom.datamodules.loading.order import Key
from darkroom.errors import DataError, UsageError
from darkroom.protocols import BatchedDataset, SizedDataset

BAD_SAMPLES = "bad_samples"  # key under which a batch carries the read failures of a worker process


@contextmanager
def keyed_rng(*key: int) -> Iterator[None]:
    """Seed torch's global generator by the key; restore its state on exit."""
    before = torch.get_rng_state()
    # default_generator, because torch.manual_seed would seed every GPU as well.
    torch.default_generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
    try:
        yield
    finally:
        torch.set_rng_state(before)


class KeyedSamples(Protocol):
    """Samples addressed by (epoch, index), or by plain indices, as with Lightning's overfit_batches."""

    @property
    def dataset(self) -> SizedDataset:
        """Underlying data set, addressed by int."""
        ...

    @property
    def makes_batches(self) -> bool:
        """True if a batch is read at once instead of sample by sample."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key | int, /) -> dict[str, Any]: ...

    def __getitems__(self, keys: Sequence[Key | int], /) -> dict[str, Any] | list[dict[str, Any]]: ...


def split_key(key: Key | int) -> Key:
    """Return epoch and index; the epoch of a plain index is 0."""
    return key if isinstance(key, tuple) else (0, key)


# Entry of batches that are augmented on their device: the keys (epoch, index) of the samples, a list.
AUGMENT_KEYS = "augment_keys"


def require_uint8(sample: dict[str, Any]) -> dict[str, Any]:
    """Return an augmented sample; raise a UsageError if its image is not a uint8 tensor."""
    image = sample["image"]
    if (dtype := image.dtype if isinstance(image, Tensor) else type(image).__name__) != torch.uint8:
        raise UsageError(
            f"data.augment must return images of torch.uint8, got {dtype}; the datamodule converts and normalizes "
            "them: remove ToDtype, Normalize and similar transforms"
        )
    return sample


class KeyedDataset(Dataset[dict[str, Any]]):
    """Data set addressed by (epoch, index) that augments each sample under a generator seeded by that key.

    Args:
        dataset: addressed by int.
        augment: maps a dict of tv_tensors to the same (``transforms.v2``): image and mask are transformed together.
        seed: seed of the augmentation, part of every key.
        keys: add the key to each sample, for augmentation on the device.
    """

    def __init__(
        self,
        dataset: SizedDataset,
        augment: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        seed: int = 0,
        keys: bool = False,
    ) -> None:
        self.dataset, self.augment, self.seed, self.keys = dataset, augment, seed, keys

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        epoch, index = split_key(key)
        added = {AUGMENT_KEYS: (epoch, index)} if self.keys else {}
        if self.augment is None:
            return self.dataset[index] | added
        with keyed_rng(self.seed, epoch, index):
            return require_uint8(self.augment(as_tv_tensors(self.dataset[index]))) | added

    @property
    def makes_batches(self) -> bool:
        """True if a batch is read at once instead of sample by sample."""
        return self.augment is None and isinstance(self.dataset, BatchedDataset)

    def __getitems__(self, keys: Sequence[Key | int]) -> dict[str, Any] | list[dict[str, Any]]:
        if self.augment is None and isinstance(self.dataset, BatchedDataset):
            given = [split_key(key) for key in keys]
            batch = self.dataset.__getitems__([index for _, index in given])
            if not self.keys:
                return batch
            if isinstance(batch, dict):
                return batch | {AUGMENT_KEYS: given}
            return [sample | {AUGMENT_KEYS: key} for sample, key in zip(batch, given, strict=True)]
        return [self[key] for key in keys]


_KINDS = {"image": tv_tensors.Image, **dict.fromkeys(("mask", "instances", "masks"), tv_tensors.Mask)}
_BOXES = ("boxes", "proposals")


def as_tv_tensors(sample: dict[str, Any], canvas_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Wrap image, masks (``mask``: class ids; ``instances``: instance ids) and boxes in the types of transforms.v2."""
    size = canvas_size or tuple(sample["image"].shape[-2:])
    wrapped = {}
    for key, value in sample.items():
        if key == "target":
            wrapped[key] = as_tv_tensors(value, size)
        elif key in _BOXES:
            wrapped[key] = tv_tensors.BoundingBoxes(value, format="XYXY", canvas_size=size)
        else:
            wrapped[key] = _KINDS[key](value) if key in _KINDS else value
    return wrapped


def _as_tensors(value: Any) -> Any:
    """Convert tv_tensors to plain tensors, whose operations are faster."""
    if isinstance(value, dict):
        return {key: _as_tensors(entry) for key, entry in value.items()}
    return value.as_subclass(torch.Tensor) if isinstance(value, tv_tensors.TVTensor) else value


def collate(
    samples: dict[str, Any] | list[dict[str, Any]], unstacked: frozenset[str] = frozenset({"proposals"})
) -> dict[str, Any]:
    """Stack samples into a batch, except the entries in ``unstacked``; return a finished batch unchanged.

    Raises:
        DataError: the images have different shapes.
    """
    if isinstance(samples, dict):
        return samples
    shapes = {tuple(sample["image"].shape) for sample in samples}
    if len(shapes) > 1 and "image" not in unstacked:
        names = ", ".join(str(sample.get("path", "?")) for sample in samples[:4])
        raise DataError(
            f"images of different shapes {sorted(shapes)} cannot be stacked ({names} ...); "
            "set data.eval_batch_size to 1, or use images of one size"
        )
    lists = {key: [_as_tensors(sample[key]) for sample in samples] for key in unstacked & samples[0].keys()}
    rest = [{key: value for key, value in sample.items() if key not in lists} for sample in samples]
    return (default_collate(rest) if rest[0] else {}) | lists
