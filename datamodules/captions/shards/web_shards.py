"""ShardedCaptions: captioned pictures in WebDataset's shards, for data beyond one disk."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from darkroom.datamodules.captions.base import CaptionedPictures
from darkroom.datamodules.captions.caption_text import most_frequent_words
from darkroom.datamodules.captions.shards.reader import (
    ShardSamples,
    address_of,
    check_pattern,
    is_remote,
    list_shards,
    read_samples,
    shard_sizes,
    stored_captions,
)
from darkroom.datamodules.loading import ResumableLoader, SeededSampler, ShardSampler
from darkroom.errors import UsageError

TEST = "test-*.tar"


class ShardedCaptions(CaptionedPictures):
    """Captioned pictures in tar files: ``<key>.jpg`` (or any common format) beside ``<key>.txt`` or ``<key>.json``.

    A text holds the caption; of a JSON ``caption`` is it, a text or a list of several. Shards are read from start to end,
    each by one worker of one rank, and shuffled: their order by (seed, epoch), then their samples within a buffer. Every
    rank sees the same number of samples; a continued run reads on in the shards where it was. ``shards.json`` beside the
    shards says how many samples each holds, {"train-000000.tar": 1000, ...}; shards on this disk are counted without it.
    ``darkroom shards`` makes shards of other data.

    Args:
        root: folder of the shards, or its address (https:, gs:, hf: ...), which needs the package webdataset.
        train, val: the shards in it, by a pattern: ``train-{000000..000099}.tar``, or of files ``train-*.tar``. One with a
            protocol stands for itself: ``pipe:aws s3 cp s3://bucket/train-{000..099}.tar -``, a
            command for a shell, which needs DARKROOM_ALLOW_PIPE=1 in the environment.
        test: those to test on; None: ``test-*.tar`` where ``root`` is a folder that holds such, else as ``val``.
        streams: places that every rank reads at; ``num_workers`` should divide it, and is lowered until it does. It decides
            the order, ``num_workers`` does not.
        buffer: samples that a rank draws from in training, kept in memory as they lie in the shards.
        size, channels, background, flip, max_words, mean, std: see ``CaptionedPictures``.
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
                raise UsageError(f"data.{name} is {value}; it must be at least 1")
        if self.limit is not None:
            raise UsageError(f"data.limit is {self.limit}, but shards are read as they come; give fewer in data.train")
        self.root, self.streams, self.window = root, streams, max(1, buffer // streams)
        self.patterns = {"train": train, "val": val} | ({"test": test} if test is not None else {})
        for name, pattern in self.patterns.items():
            check_pattern(name, root, pattern)

    def _names(self, split: str) -> list[str]:
        """The shards of a split."""
        pattern = self.patterns.get("test" if split == "predict" else split)
        if pattern is None:
            own = not is_remote(self.root) and any(Path(self.root).glob(TEST))
            pattern = TEST if own else self.patterns["val"]
        return list_shards(self.root, pattern)

    @cached_property
    def words(self) -> list[str]:
        """The words of the captions in the first shard to train on, sorted."""
        shard = address_of(self.root, self._names("train")[0])
        captions = (caption for sample in read_samples(shard) for caption in stored_captions(sample, shard))
        return most_frequent_words(captions, self.max_words)

    def dataset(self, split: Literal["train", "val", "test", "predict"]) -> Dataset:
        names = self._names(split)
        # Between two samples of a shard lie at most two windows of each stream, and batches begun.
        patience = 2 * self.streams * (self.window + max(self.batch_size, self.eval_batch_size))
        return ShardSamples(
            [address_of(self.root, name) for name in names],
            shard_sizes(self.root, names),
            self.picture_format,
            all_captions=split == "train",
            window=self.window,
            patience=patience,
        )

    def _sampler(self, split: str) -> SeededSampler:
        dataset, sampler = self._datasets[split].dataset, super()._sampler(split)
        if not isinstance(dataset, ShardSamples):
            return sampler  # of photos to predict on
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

    def _loader(self, split: str) -> ResumableLoader:
        loader = super()._loader(split)
        if isinstance(loader.sampler, ShardSampler):
            while loader.num_workers and loader.sampler.streams % loader.num_workers:
                loader.num_workers -= 1
        return loader
