"""Reproducible order, augmentation and position of the data.

(seed, epoch, rank) determines the order, and (seed, epoch, index) the augmentation. The checkpoint has the position of the
loader, so a killed run resumes with the same samples.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.distributed import DistributedSampler
from torchvision import tv_tensors

from darkroom.errors import DataError, UsageError
from darkroom.protocols import BatchedDataset, SizedDataset

Key = tuple[int, int]  # (epoch, index)
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


class SeededSampler(DistributedSampler[Key]):
    """Sampler of the keys (epoch, index) of one rank in an epoch, in an order that (seed, epoch) determines.

    In training every rank gets the same number of samples; the remainder is used in other epochs. In evaluation the set
    is split among ranks without repeated samples, so metrics count each sample once. It derives from DistributedSampler so
    that Lightning does not replace it and calls ``set_epoch``.

    Args:
        length: samples in the set.
        shuffle: True in training.
        seed, rank, world_size: determine the order and the samples of the rank.
        groups: a number per sample. In training, batches of ``batch_size`` have samples of one group, on all ranks, while
            enough are left; the last batches of an epoch mix the rest.
        batch_size: samples per batch and rank.
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
        super().__init__(
            range(length),  # type: ignore[arg-type]  # only its length is used
            num_replicas=world_size,
            rank=rank,
            shuffle=shuffle,
            seed=seed,
            drop_last=shuffle,
        )
        self.length, self.groups, self.batch_size = length, groups, batch_size
        self.skip = 0  # samples of all ranks that the epoch has used; set by the loader when a run resumes

    @property
    def order_settings(self) -> dict[str, int]:
        """Settings that determine an epoch's order besides its number, by name: a position is meaningless under others."""
        settings = {"data.seed": self.seed, "training samples": self.length}
        return (
            settings if self.groups is None else settings | {"samples of a step": self.batch_size * self.num_replicas}
        )

    def order(self, epoch: int, skip: int = 0) -> list[int]:
        """Return the indices of this rank's samples in this epoch, without the first ``skip`` samples of all ranks."""
        indices = np.arange(self.length)
        if self.shuffle:
            np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch)))).shuffle(indices)
            indices = indices if self.groups is None else self._group(indices, self.groups)
        indices = indices[skip:]
        if self.shuffle:
            indices = indices[: len(indices) - len(indices) % self.num_replicas]
        return indices[self.rank :: self.num_replicas].tolist()

    def _group(self, indices: np.ndarray, groups: Sequence[int]) -> np.ndarray:
        """Return the same indices in batches of one group, each placed as soon as it is full."""
        order: list[int] = []
        waiting: dict[int, list[int]] = {}
        for index in indices.tolist():
            batch = waiting.setdefault(groups[index], [])
            batch.append(index)
            if len(batch) == self.batch_size * self.num_replicas:
                order += waiting.pop(groups[index])
        return np.array(order + [index for group in sorted(waiting) for index in waiting[group]])

    def __iter__(self) -> Iterator[Key]:
        skip, self.skip = self.skip, 0
        epoch = self.epoch
        return ((epoch, index) for index in self.order(epoch, skip))

    def __len__(self) -> int:
        left = self.length % self.num_replicas
        return self.length // self.num_replicas + (not self.shuffle and self.rank < left)


class ShardSampler(SeededSampler):
    """Sampler for data in shards, which are fast to read only from start to end.

    The concatenated shards are cut into stretches of equal length, ``streams`` for every rank. In training, (seed, epoch)
    first determines the order of shards. The batches of a rank come from its stretches in turn. So every worker reads its
    own stretches if the number of workers divides ``streams``, and the order does not depend on that number. In training a
    sample moves by less than ``window`` places from its position in the stretch.

    Args:
        sizes: samples in each shard.
        streams: stretches of a rank; fewer if a stretch would have less than a batch.
        window: greatest shift of a sample by shuffling, and number of samples of a stretch to cache.
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
        self.streams = max(1, min(streams, self.length // (world_size * batch_size)))

    def _bounds(self) -> np.ndarray:
        """Return the starts of this rank's stretches, and the end of the last one, in the samples of the epoch."""
        count, stretches = self.length, self.num_replicas * self.streams
        number = np.arange(self.rank * self.streams, (self.rank + 1) * self.streams + 1)
        return number * (count // stretches) if self.shuffle else number * count // stretches

    def _stretch(self, shards: np.ndarray, begin: int, end: int, epoch: int) -> np.ndarray:
        """Return the samples ``begin`` to ``end`` of the concatenated shards, shuffled within the window."""
        ends = np.cumsum(self.sizes[shards])
        first, last = np.searchsorted(ends, (begin, end - 1), side="right")
        starts = np.cumsum(self.sizes) - self.sizes
        row = np.concatenate([starts[s] + np.arange(self.sizes[s]) for s in shards[first : last + 1]])
        skipped = begin - (ends[first] - self.sizes[shards[first]])
        row = row[skipped : skipped + end - begin]
        if self.shuffle:
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch, begin))))
            row = row[np.argsort(np.arange(len(row)) + random.uniform(0, self.window, len(row)), kind="stable")]
        return row

    @property
    def order_settings(self) -> dict[str, int]:
        """Settings that determine an epoch's order besides its number, by name."""
        return super().order_settings | {
            "ranks": self.num_replicas,
            "data.batch_size": self.batch_size,
            "data.streams": self.streams,
            "data.window": self.window,
        }

    def order(self, epoch: int, skip: int = 0) -> list[int]:
        """Return the indices of this rank's samples in this epoch, batch by batch from its stretches in turn."""
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
        return np.concatenate([*batches, *rests, np.zeros(0, int)]).astype(int).tolist()[skip // self.num_replicas :]

    def __len__(self) -> int:
        bounds = self._bounds()
        return int(bounds[-1] - bounds[0])


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


def leave_signals_to_training(worker: int) -> None:
    """Ignore signals to the whole process group (Ctrl-C, Slurm) in a worker of a loader; the main process ends it.

    The main process finishes its step first. The first SIGTERM is ignored too; the second one, from multiprocessing, ends
    the worker.
    """
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: signal.signal(signum, signal.SIG_DFL))


class ResumableLoader(DataLoader[dict[str, Any]]):
    """DataLoader with a position that can be restored. Lightning stores ``state_dict()`` in the checkpoint.

    The position counts samples of all ranks, so another batch size or number of ranks resumes at the same sample. It is
    stored with the settings that determine the order of an epoch.

    With ``overfit_batches`` Lightning's sampler replaces ours and always starts from the beginning.

    Args:
        on_bad_samples: called with the read failures of a batch; a batch without any readable sample is skipped.
    """

    def __init__(self, *args: Any, on_bad_samples: Callable[[list[Any]], None] | None = None, **kwargs: Any) -> None:
        # Own generator: the start of an epoch would advance the global one, and a resumed run has one more start.
        super().__init__(
            *args, **{"generator": torch.Generator(), "worker_init_fn": leave_signals_to_training, **kwargs}
        )
        self.on_bad_samples = on_bad_samples
        self._resume: dict[str, Any] | None = None
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        """Begin an epoch, at the position of the checkpoint if that is within it."""
        resume, self._resume = self._resume, None
        self._epoch, self._start = epoch, 0
        if resume is not None and resume["epoch"] == epoch and isinstance(self.sampler, SeededSampler):
            self._start = self.sampler.skip = resume["samples"]
        self._yielded = 0
        self._left_out: list[int] = []  # number of batches yielded before each batch without a readable sample
        self._evaluated: list[list[int]] = []  # indices of the samples of each batch that was yielded

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # a generator around torch's iterator
        self._begin(self.sampler.epoch if isinstance(self.sampler, DistributedSampler) else 0)
        indices = iter(self._evaluation_order())
        for batch in self._loaded():
            read = list(islice(indices, self._size))
            if self.on_bad_samples is not None and BAD_SAMPLES in batch:
                bad = batch.pop(BAD_SAMPLES)
                self.on_bad_samples(bad)
                if not batch:
                    self._left_out.append(self._yielded)
                    continue
                omitted = {one.number for one in bad}
                read = [index for index in read if index not in omitted]
            self._yielded += 1
            if read:
                self._evaluated.append(read)
            yield batch
        if self._left_out and not self._yielded:  # no metrics without samples, and the other ranks would block
            raise DataError("none of the samples can be read; repair the data (see the reasons above)")

    def _loaded(self) -> Iterator[dict[str, Any]]:
        """Yield the batches; let torch report a killed worker instead of the connection that this worker left broken.

        The kernel closes the connections of a killed process shortly before it sends the SIGCHLD whose handler raises
        torch's error, with the worker's pid and signal: it raises that error within the wait.
        """
        broken = None
        try:
            yield from super().__iter__()
        except (ConnectionError, EOFError) as error:
            broken = error
        if broken is not None:  # outside of the handler, or the report would keep the loader's frames as its context
            time.sleep(1)
            raise broken

    def _evaluation_order(self) -> list[int]:
        """Return the indices of this rank's samples; none in training, where another sample replaces a bad one."""
        sampler = self.sampler
        return sampler.order(self._epoch) if isinstance(sampler, SeededSampler) and not sampler.shuffle else []

    def samples_of(self, batch: int) -> list[int]:
        """Return the indices of the samples in a batch of an evaluation that was yielded; none if they are unknown."""
        return self._evaluated[batch] if batch < len(self._evaluated) else []

    def __len__(self) -> int:
        # A rank without a batch (fewer samples than ranks) must reach the barrier at the end of the epoch. With length 0
        # Lightning would not start the epoch on it, and the other ranks would block forever.
        return max(1, super().__len__())

    def batches_before(self, samples: int) -> int:
        """Return how many batches of an epoch, of today's size, its first ``samples`` samples of all ranks stand for."""
        if not samples or not isinstance(self.sampler, SeededSampler):
            return 0
        left = len(self.sampler.order(self._epoch, samples))
        return len(self) - (left // self._size if self.drop_last else -(-left // self._size))

    def indices_of(self, epoch: int, batch: int) -> list[int]:
        """Return the indices of the samples in a batch of this rank, counted from the very start of the epoch."""
        skip = self._start if epoch == self._epoch else 0
        sampler = self.sampler  # Lightning replaces ours for overfit_batches
        order = sampler.order(epoch, skip) if isinstance(sampler, SeededSampler) else list(sampler)
        first = (batch - self.batches_before(skip)) * self._size
        return order[first : first + self._size]

    def position_after(self, batches: int) -> dict[str, Any]:
        """Return the position after the first ``batches`` batches of this epoch, those before a resume included."""
        before = self.batches_before(self._start)
        yielded = batches - before
        read = yielded + sum(number < yielded for number in self._left_out)
        return {
            "epoch": self._epoch,
            "batches": before + read,
            "samples": self._start + self._samples_in(read),
            "order": self.sampler.order_settings if isinstance(self.sampler, SeededSampler) else {},
        }

    @property
    def _size(self) -> int:
        return self.batch_size or 1

    def _samples_in(self, batches: int) -> int:
        """Return the number of samples of all ranks in this number of batches of each."""
        return batches * self._size * (self.sampler.num_replicas if isinstance(self.sampler, DistributedSampler) else 1)

    def state_dict(self) -> dict[str, Any]:
        return self.position_after(self.batches_before(self._start) + self._yielded)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next epoch at this position, if it is within that epoch.

        Raises:
            UsageError: the seed differs, or the position is within an epoch and another setting that determines its order.
        """
        if "samples" not in state:  # a checkpoint of the previous version, which counts batches alone
            state = {**state, "samples": self._samples_in(state["batches"]), "order": {}}
        now = self.sampler.order_settings if isinstance(self.sampler, SeededSampler) else {}
        complete = len(self) <= self.batches_before(state["samples"])
        for name, saved in state["order"].items():
            if name in now and now[name] != saved and (name == "data.seed" or not complete):
                raise UsageError(
                    f"ckpt_path: the checkpoint was written under {name} {saved}, but this fit has {now[name]}, so samples "
                    f"would be used twice or never; resume with {saved}, or start a new fit from the weights"
                )
        self._resume = dict(state)
