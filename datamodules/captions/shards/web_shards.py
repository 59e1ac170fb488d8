"""ShardedCaptions: images with captions in WebDataset's shards, for data beyond one disk."""

from functools import cached_property
from pathlib import Path
from typing import Any

from darkroom.datamodules.base import Split
from darkroom.datamodules.captions.base import CaptionDataModule
from darkroom.datamodules.captions.caption_text import most_frequent_words
from darkroom.datamodules.captions.shards.reader import (
    ShardSamples,
    address_of,
    check_pattern,
    is_remote,
    list_shards,
    read_captions,
    read_samples,
    shard_sizes,
)
from darkroom.datamodules.loading import ResumableLoader, SeededSampler, ShardSampler
from darkroom.errors import UsageError
from darkroom.protocols import SizedDataset

TEST = "test-*.tar"


class ShardedCaptions(CaptionDataModule):
    """Images with captions in tar files: ``<key>.jpg`` (or any common format) beside ``<key>.txt`` or ``<key>.json``.

    The text file holds the caption; in a JSON file it is the entry ``caption``, a text or a list of texts. One worker of
    one rank reads each shard from start to end. Training shuffles the order of shards by (seed, epoch), then their samples
    within a buffer. Every rank sees the same number of samples; a run resumes at its position in the shards.

    ``shards.json`` beside the shards has the number of samples of each, {"train-000000.tar": 1000, ...}; without it, local
    shards are counted. ``darkroom shards`` writes shards of other data.

    Args:
        root: folder of the shards, or its address (https:, gs:, hf: ...), which needs the package webdataset.
        train, val: pattern of their names: ``train-{000000..000099}.tar``, or for local files ``train-*.tar``. A pattern
            with a protocol ignores ``root``: ``pipe:aws s3 cp s3://bucket/train-{000..099}.tar -`` is a shell command,
            which needs DARKROOM_ALLOW_PIPE=1 in the environment.
        test: pattern for the test split; None: ``test-*.tar`` where ``root`` is a folder with such files, else as ``val``.
        streams: number of positions that every rank reads at. It determines the order. ``num_workers`` does not, and is
            lowered until it divides ``streams``.
        buffer: samples that a rank shuffles in training, cached in memory in the format of the shards.
        size, channels, background, flip, max_words, mean, std: see ``CaptionDataModule``.
    """

    def __init__(
        self,
        root: str = "data/shards",
        train: str = "train-*.tar",
        val: str = "val-*.tar",
        test: str | None = None,
        streams: int = 8,
        buffer: int = 4096,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in {"streams": streams, "buffer": buffer}.items():
            if value < 1:
                raise UsageError(f"data.{name} must be at least 1, got {value}")
        if self.limit is not None:
            raise UsageError(
                f"data.limit must be null, since shards are read whole, got {self.limit}; give fewer in data.train"
            )
        self.root, self.streams, self.window = root, streams, max(1, buffer // streams)
        self.patterns = {"train": train, "val": val} | ({"test": test} if test is not None else {})
        for name, pattern in self.patterns.items():
            check_pattern(name, root, pattern)

    def _list_names(self, split: Split) -> list[str]:
        """Return the names of a split's shards."""
        pattern = self.patterns.get("test" if split == "predict" else split)
        if pattern is None:
            own = not is_remote(self.root) and any(Path(self.root).glob(TEST))
            pattern = TEST if own else self.patterns["val"]
        return list_shards(self.root, pattern)

    @cached_property
    def words(self) -> list[str]:
        """Words of the captions in the first training shard, sorted."""
        shard = address_of(self.root, self._list_names("train")[0])
        captions = (caption for sample in read_samples(shard) for caption in read_captions(sample, shard))
        return most_frequent_words(captions, self.max_words)

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``ShardSamples`` of a split; prediction uses the test split."""
        names = self._list_names(split)
        # Between two samples of a shard are at most two windows of each stream, and unfinished batches.
        patience = 2 * self.streams * (self.window + max(self.batch_size, self.eval_batch_size))
        return ShardSamples(
            [address_of(self.root, name) for name in names],
            shard_sizes(self.root, names),
            self.image_format([], split),  # streamed, so their bit depth is not examined
            all_captions=split == "train",
            window=self.window,
            patience=patience,
        )

    def _sampler(self, split: Split) -> SeededSampler:
        dataset, sampler = self._datasets[split].dataset, super()._sampler(split)
        if not isinstance(dataset, ShardSamples):
            return sampler  # for photos to predict on
        return ShardSampler(
            dataset.sizes,
            shuffle=sampler.shuffle,
            seed=self.seed,
            rank=sampler.rank,
            world_size=sampler.num_replicas,
            batch_size=self.batch_size if sampler.shuffle else self.eval_batch_size,
            streams=self.streams,
            window=self.window,
        )

    def _loader(self, split: Split) -> ResumableLoader:
        loader = super()._loader(split)
        if isinstance(loader.sampler, ShardSampler):
            while loader.num_workers and loader.sampler.streams % loader.num_workers:
                loader.num_workers -= 1
        return loader
