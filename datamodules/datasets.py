"""Data set classes and helpers that several families use."""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Dataset

from darkroom.protocols import FileDataset, NamedSamples, SizedDataset

_Item = TypeVar("_Item")


class WholeBatchDataset(Dataset[dict[str, Any]]):
    """Base of the data sets that make a whole batch at once, faster than sample by sample.

    Subclasses define ``__len__`` and ``__getitems__``.
    """

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Make the batch of these samples."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a for loop over the data set
        return {key: value[0] for key, value in self.__getitems__([index]).items()}


class DatasetWrapper(Dataset[dict[str, Any]]):
    """Base of the data sets that change the samples of another data set and keep its indices.

    Other attributes of the wrapped data set (``paths``, ``labels``) can be read here too.

    Args:
        dataset: addressed by int.
    """

    def __init__(self, dataset: SizedDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):  # absent while unpickling; special methods are not shared
            raise AttributeError(name)
        return getattr(self.dataset, name)


def unwrap(dataset: SizedDataset) -> SizedDataset:
    """Return the data set inside all wrappers."""
    while isinstance(dataset, DatasetWrapper):
        dataset = dataset.dataset
    return dataset


def name_of(dataset: SizedDataset, index: int) -> str:
    """Return the name of a sample: that of ``NamedSamples``, else its file, else its index."""
    inner = unwrap(dataset)
    if isinstance(inner, NamedSamples):
        return inner.name_of(index)
    return str(inner.paths[index]) if isinstance(inner, FileDataset) and inner.paths else f"sample {index}"


def permute(count: int, seed: int) -> np.ndarray:
    """Return the indices below ``count`` in a random order that the seed determines: int64 (count,)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed))).permutation(count)


def limit_items(items: list[_Item], limit: int | None, seed: int) -> list[_Item]:
    """Return at most ``limit`` of the items, chosen at random by the seed; None: all, in their order."""
    return items if limit is None else [items[index] for index in permute(len(items), seed)[:limit]]


def processor_count() -> int:
    """Return the number of processors that this process may use."""
    # Only Linux has the set of processors that Slurm or a container assigned to a process.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
