"""Order, augmentation and position of the data, each a function of what is written down: (seed, epoch, rank) decides the
order, (seed, epoch, index) the augmentation, and the loader's position is in the checkpoint. So a killed run continues
with the very samples it would have seen.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.distributed import DistributedSampler
from torchvision import tv_tensors

from darkroom.errors import DataError, UsageError

Key = tuple[int, int]  # (epoch, index)
BAD_SAMPLES = "bad_samples"  # under this key a batch brings what could not be read from a worker process


@contextmanager
def keyed_rng(*key: int) -> Iterator[None]:
    """Within, torch's global generator is a function of the key; afterwards it is where it was before."""
    before = torch.get_rng_state()
    # default_generator, because torch.manual_seed would seed every GPU as well.
    torch.default_generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
    try:
        yield
    finally:
        torch.set_rng_state(before)


class SeededSampler(DistributedSampler):
    """Yields the keys (epoch, index) of one rank's share of an epoch, in an order that (seed, epoch) decides.

    In training every rank gets the same number of samples: what is left over is seen in another epoch. In evaluation the
    ranks share the set without repeating a sample, so that a score counts each one once. It is a DistributedSampler so
    that Lightning leaves it in place and announces epochs.

    Args:
        length: samples in the set.
        shuffle: whether this is training.
        seed, rank, world_size: decide the order and the share.
        groups: a number per sample; in training, batches of ``batch_size`` hold samples of one group, on all ranks, for as
            long as there are enough of them; the last batches of an epoch mix what is left.
        batch_size: of one rank.
    """

    def __init__(
        self,
        length: int,
        *,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[int] | None = None,
        batch_size: int = 1,
    ) -> None:
        super().__init__(range(length), world_size, rank, shuffle=shuffle, seed=seed, drop_last=shuffle)
        self.groups, self.batch_size = groups, batch_size
        self.skip = 0  # samples already seen; set by the loader when a run is continued

    def order(self, epoch: int) -> list[int]:
        """The indices of this rank's samples in this epoch."""
        indices = np.arange(len(self.dataset))
        if self.shuffle:
            np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch)))).shuffle(indices)
            indices = indices if self.groups is None else self._grouped(indices)
            indices = indices[: len(indices) - len(indices) % self.num_replicas]
        return indices[self.rank :: self.num_replicas].tolist()

    def _grouped(self, indices: np.ndarray) -> np.ndarray:
        """The same indices, in batches of one group, each as early as it is full."""
        order: list[int] = []
        waiting: dict[int, list[int]] = {}
        for index in indices.tolist():
            batch = waiting.setdefault(self.groups[index], [])
            batch.append(index)
            if len(batch) == self.batch_size * self.num_replicas:
                order += waiting.pop(self.groups[index])
        return np.array(order + [index for group in sorted(waiting) for index in waiting[group]])

    def __iter__(self) -> Iterator[Key]:
        start, self.skip = self.skip, 0
        epoch = self.epoch
        return ((epoch, index) for index in self.order(epoch)[start:])

    def __len__(self) -> int:
        left = len(self.dataset) % self.num_replicas
        return len(self.dataset) // self.num_replicas + (not self.shuffle and self.rank < left)


class ShardSampler(SeededSampler):
    """The order for data that lie in shards, each of which is quick to read only from its start to its end.

    The shards, in training in an order that (seed, epoch) decides, are cut into stretches of equal length, ``streams`` for
    every rank, and a rank's batches come from its stretches in turn. So a worker reads stretches of its own, if the number
    of workers divides ``streams``, and the order does not depend on it. In training a sample is seen less than ``window``
    places from where it lies in its stretch.

    Args:
        sizes: samples in each shard.
        streams: stretches of a rank; fewer where they would hold less than a batch.
        window: how far samples are shuffled; what has to be kept of a stretch.
        shuffle, seed, rank, world_size, batch_size: see ``SeededSampler``.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        shuffle: bool,
        seed: int,
        batch_size: int,
        streams: int,
        window: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            sum(sizes), shuffle=shuffle, seed=seed, rank=rank, world_size=world_size, batch_size=batch_size
        )
        self.sizes, self.window = np.asarray(sizes), window
        self.streams = max(1, min(streams, len(self.dataset) // (world_size * batch_size)))

    def _bounds(self) -> np.ndarray:
        """Where this rank's stretches begin, and where the last one ends, in the epoch's row of samples."""
        count, stretches = len(self.dataset), self.num_replicas * self.streams
        number = np.arange(self.rank * self.streams, (self.rank + 1) * self.streams + 1)
        return number * (count // stretches) if self.shuffle else number * count // stretches

    def _stretch(self, shards: np.ndarray, begin: int, end: int, epoch: int) -> np.ndarray:
        """The samples from ``begin`` to ``end`` of these shards in a row, near where they lie."""
        ends = np.cumsum(self.sizes[shards])
        first, last = np.searchsorted(ends, (begin, end - 1), side="right")
        starts = np.cumsum(self.sizes) - self.sizes
        row = np.concatenate([starts[s] + np.arange(self.sizes[s]) for s in shards[first : last + 1]])
        skipped = begin - (ends[first] - self.sizes[shards[first]])
        row = row[skipped : skipped + end - begin]
        if self.shuffle:
            draw = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch, begin))))
            row = row[np.argsort(np.arange(len(row)) + draw.uniform(0, self.window, len(row)), kind="stable")]
        return row

    def order(self, epoch: int) -> list[int]:
        shards = np.arange(len(self.sizes))
        if self.shuffle:
            np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch)))).shuffle(shards)
        rows = [self._stretch(shards, begin, end, epoch) for begin, end in pairwise(self._bounds()) if begin < end]
        whole = [len(row) // self.batch_size * self.batch_size for row in rows]
        batches = [
            row[start : start + self.batch_size]
            for start in range(0, max(whole, default=0), self.batch_size)
            for row, stop in zip(rows, whole, strict=True)
            if start < stop
        ]
        rests = [row[stop:] for row, stop in zip(rows, whole, strict=True)]
        return np.concatenate([*batches, *rests, np.zeros(0, int)]).astype(int).tolist()

    def __len__(self) -> int:
        bounds = self._bounds()
        return int(bounds[-1] - bounds[0])


class KeyedDataset(Dataset):
    """A data set of dicts addressed by (epoch, index); augments each sample under a generator of that key.

    ``augment`` maps a dict of tv_tensors to the same (``transforms.v2``): image and mask are transformed together.
    """

    def __init__(self, dataset: Dataset, augment: Callable[[dict], dict] | None = None, seed: int = 0) -> None:
        self.dataset, self.augment, self.seed = dataset, augment, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        epoch, index = (
            key if isinstance(key, tuple) else (0, key)
        )  # Lightning's overfit_batches hands out plain indices
        if self.augment is None:
            return self.dataset[index]
        with keyed_rng(self.seed, epoch, index):
            sample = self.augment(as_tv_tensors(self.dataset[index]))
        if (dtype := getattr(sample["image"], "dtype", type(sample["image"]).__name__)) != torch.uint8:
            raise UsageError(
                f"data.augment makes images {dtype} instead of torch.uint8; leave dtype and normalisation to the "
                "datamodule: take out ToDtype, Normalize and their like"
            )
        return sample

    @property
    def makes_batches(self) -> bool:
        """Whether a batch is read at once, and not sample by sample."""
        return self.augment is None and hasattr(self.dataset, "__getitems__")

    def __getitems__(self, keys: list[Key | int]) -> dict[str, Any] | list[dict[str, Any]]:
        if self.makes_batches:
            return self.dataset.__getitems__([key[1] if isinstance(key, tuple) else key for key in keys])
        return [self[key] for key in keys]


_KINDS = {"image": tv_tensors.Image, **dict.fromkeys(("mask", "instances", "masks"), tv_tensors.Mask)}
_BOXES = ("boxes", "proposals")


def as_tv_tensors(sample: dict[str, Any], canvas_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Tells transforms.v2 which tensor is the image, which are masks (``instances``: ids, beside the classes) and boxes."""
    size = canvas_size or tuple(sample["image"].shape[-2:])
    told = {}
    for key, value in sample.items():
        if key == "target":
            told[key] = as_tv_tensors(value, size)
        elif key in _BOXES:
            told[key] = tv_tensors.BoundingBoxes(value, format="XYXY", canvas_size=size)
        else:
            told[key] = _KINDS[key](value) if key in _KINDS else value
    return told


def _as_tensors(value: Any) -> Any:
    """Takes back what ``as_tv_tensors`` said: operations on plain tensors are faster."""
    if isinstance(value, dict):
        return {key: _as_tensors(entry) for key, entry in value.items()}
    return value.as_subclass(torch.Tensor) if isinstance(value, tv_tensors.TVTensor) else value


def collate(
    samples: dict[str, Any] | list[dict[str, Any]], unstacked: frozenset[str] = frozenset({"proposals"})
) -> dict[str, Any]:
    """Stacks samples into a batch, but the entries in ``unstacked``; a data set that made a whole batch is left alone."""
    if isinstance(samples, dict):
        return samples
    shapes = {tuple(sample["image"].shape) for sample in samples}
    if len(shapes) > 1 and "image" not in unstacked:
        names = ", ".join(str(sample.get("path", "?")) for sample in samples[:4])
        raise DataError(
            f"images of different shapes {sorted(shapes)} cannot share a batch ({names} ...): "
            "set data.eval_batch_size to 1, or use images of one size"
        )
    listed = {key: [_as_tensors(sample[key]) for sample in samples] for key in unstacked & samples[0].keys()}
    rest = [{key: value for key, value in sample.items() if key not in listed} for sample in samples]
    return (default_collate(rest) if rest[0] else {}) | listed


def leave_signals_to_training(worker: int) -> None:
    """Has a process that loads the data outlive what asks a whole group of processes to end, as Ctrl-C and Slurm do: the
    training ends its step and then its loaders. SIGTERM counts the second time, which is multiprocessing's own."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: signal.signal(signum, signal.SIG_DFL))


class ResumableLoader(DataLoader):
    """A DataLoader that knows its position. Lightning stores ``state_dict()`` in the checkpoint by itself. With
    ``overfit_batches`` the sampler is Lightning's, which always begins anew.

    Args:
        on_bad_samples: is told what could not be read of a batch; one of which nothing could be read is left out.
    """

    def __init__(self, *args: Any, on_bad_samples: Callable[[list[Any]], None] | None = None, **kwargs: Any) -> None:
        # Its own generator: otherwise starting an epoch would draw from the global one, and a resumed run start one more.
        super().__init__(
            *args, **{"generator": torch.Generator(), "worker_init_fn": leave_signals_to_training, **kwargs}
        )
        self.on_bad_samples = on_bad_samples
        self._position = {"epoch": 0, "batches": 0}
        self._resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:
        epoch, done = getattr(self.sampler, "epoch", 0), 0
        if self._resume and self._resume["epoch"] == epoch:
            done = self._resume["batches"]
            self.sampler.skip = done * self.batch_size
        self._resume, left_out = None, 0
        self._position = {"epoch": epoch, "batches": done}
        for batch in super().__iter__():
            self._position["batches"] += 1
            if self.on_bad_samples is not None and BAD_SAMPLES in batch:
                self.on_bad_samples(batch.pop(BAD_SAMPLES))
                if not batch:
                    left_out += 1
                    continue
            yield batch
        if left_out and left_out == len(self):  # scores of nothing are none, and other ranks would wait for them
            raise DataError("of the samples to go through not one can be read; see the reasons above")

    def __len__(self) -> int:
        # A rank that has no batch, of a set smaller than the ranks, must meet the others at the end of the epoch. With a
        # length of 0 Lightning would not even begin it, and they would wait for ever.
        return max(1, super().__len__())

    def state_dict(self) -> dict[str, int]:
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume = dict(state)
