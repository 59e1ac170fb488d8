"""Reproducible order of the data: (seed, epoch, rank) determines it."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from torch.utils.data.distributed import DistributedSampler

Key = tuple[int, int]  # (epoch, index)


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
