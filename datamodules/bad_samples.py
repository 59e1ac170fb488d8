"""Samples that cannot be read: replaced in training, omitted elsewhere, listed in a file, limited by a budget."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import Dataset

from darkroom.datamodules.datasets import DatasetWrapper, name_of
from darkroom.datamodules.loading import BAD_SAMPLES, Key, KeyedDataset, KeyedSamples, split_key
from darkroom.errors import DataError
from darkroom.protocols import SizedDataset

try:
    import fcntl
except ImportError:  # not POSIX: runs have one process there
    fcntl = None  # type: ignore[assignment]  # the module is absent

BAD_SAMPLES_FILE = "bad_samples.tsv"
UNREADABLE = (DataError, OSError)
_TRIES = 100  # samples tried instead of a bad one
_PRINTED = 5  # messages on the console, per rank
_HEADER = "split\tsample\treason\n"

_log = logging.getLogger("lightning.pytorch")


class BadSample(NamedTuple):
    """Name of a sample, its file or its index, the reason of the read failure, and its number in the data set."""

    name: str
    reason: str
    number: int = -1


class ReadBatch(NamedTuple):
    """Result of reading a batch: the samples, or the whole batch that the data set made, and the read failures."""

    samples: list[dict[str, Any]] | dict[str, Any]
    bad: list[BadSample]


class SkippingDataset(Dataset[dict[str, Any]]):
    """Data set addressed by (epoch, index) that continues after a sample that cannot be read.

    Args:
        keyed: the data set.
        seed: with epoch and index determines the sample that replaces a bad one.
        replace: replace a bad sample, since training needs batches of one size; False: omit it.
    """

    def __init__(self, keyed: KeyedSamples, seed: int, replace: bool) -> None:
        self.keyed, self.seed, self.replace = keyed, seed, replace
        self.dataset = keyed.dataset

    def __len__(self) -> int:
        return len(self.keyed)

    def __getitems__(self, keys: Sequence[Key | int]) -> ReadBatch:
        if self.keyed.makes_batches:
            with suppress(*UNREADABLE):
                return ReadBatch(self.keyed.__getitems__(keys), [])
        bad: list[BadSample] = []
        samples = [sample for key in keys if (sample := self.read(key, bad)) is not None]
        return ReadBatch(samples, bad)

    def read(self, key: Key | int, bad: list[BadSample]) -> dict[str, Any] | None:
        """Return a sample, its replacement, or None if it is omitted; add read failures to ``bad``.

        Raises:
            DataError: 100 replacements in turn cannot be read.
        """
        for epoch, index in self._candidates(*split_key(key)):
            try:
                return self.keyed[epoch, index]
            except UNREADABLE as error:
                bad.append(BadSample(name_of(self.dataset, index), str(error), index))
        if self.replace:
            raise DataError(
                f"{_TRIES} samples chosen in turn cannot be read, the first: {bad[-_TRIES].reason}; repair the data"
            )
        return None

    def _candidates(self, epoch: int, index: int) -> Iterator[Key]:
        yield epoch, index
        if self.replace:
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch, index))))
            for _ in range(_TRIES - 1):
                yield epoch, int(random.integers(len(self)))


def collate_readable(read: ReadBatch, collate: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Collate the samples that were read; add the failures under a key that the loader removes."""
    batch = collate(read.samples) if read.samples else {}
    return batch | {BAD_SAMPLES: read.bad} if read.bad else batch


class SubstitutingDataset(DatasetWrapper):
    """Data set addressed by int, for use without a loader, that replaces samples that cannot be read.

    Args:
        dataset: addressed by int.
        seed: see ``SkippingDataset``.
        note: called with the samples that cannot be read.
    """

    def __init__(self, dataset: SizedDataset, seed: int, note: Callable[[list[BadSample]], None]) -> None:
        super().__init__(dataset=dataset)
        self.skipping, self.note = SkippingDataset(KeyedDataset(dataset), seed, replace=True), note

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a for loop over the data set
        bad: list[BadSample] = []
        sample = self.skipping.read(index, bad)
        self.note(bad)
        if sample is None:  # never with replace: ``read`` raises
            raise IndexError(index)
        return sample


class BadSamples:
    """Record of the samples of a run that cannot be read: each once in ``bad_samples.tsv``.

    All ranks share the file, also after a resume.

    Args:
        budget: maximum number of bad samples of a split; one more is an error.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.path: Path | None = None  # set when the run has a folder
        self._listed: set[tuple[str, str]] = set()
        self._found = 0

    def note(self, split: str, found: Sequence[BadSample]) -> None:
        """Add new bad samples of a split to the file and log them.

        Raises:
            DataError: the budget is exceeded.
        """
        found = [one._replace(name=_one_line(one.name), reason=_one_line(one.reason)) for one in found]
        if all((split, one.name) in self._listed for one in found):
            return
        new = self._list(split, {one.name: one for one in found})
        for one in new:
            self._found += 1
            if self._found <= _PRINTED:
                _log.warning(f"bad sample ({split}): {one.reason}")
            elif self._found == _PRINTED + 1:
                _log.warning(f"more bad samples found; {self._where}")
        if new and self._counted(split) > self.budget:
            raise DataError(
                f"more than {self.budget} samples of the {split} split cannot be read ({self._where}), the last: "
                f"{new[-1].reason}; repair or remove them, or raise data.bad_sample_budget"
            )

    def count(self, split: str) -> int:
        """Count the bad samples of a split that all ranks have found so far."""
        if self.path is not None and self.path.is_file():
            with self.path.open(encoding="utf-8") as file:
                self._load(file)
        return self._counted(split)

    def report(self) -> None:
        """Log the number of bad samples of each split."""
        for split in sorted({split for split, _ in self._listed}):
            rank_zero_info(f"bad samples ({split}): {self.count(split)}; {self._where}")

    @property
    def _where(self) -> str:
        return f"listed in {self.path}" if self.path else "not listed in a file, since there is no run"

    def _counted(self, split: str) -> int:
        return sum(listed == split for listed, _ in self._listed)

    def _list(self, split: str, found: dict[str, BadSample]) -> list[BadSample]:
        """Append the samples that no rank has listed before, and return them."""
        with self._open_locked() as file:
            if file is not None:
                self._load(file)
            new = [one for name, one in found.items() if (split, name) not in self._listed]
            if file is not None and new:
                lines = "".join(f"{split}\t{one.name}\t{one.reason}\n" for one in new)
                # A single write keeps the lines of several ranks apart; a killed process may have left half a line.
                os.write(file.fileno(), f"{_line_start(file)}{lines}".encode())
        self._listed |= {(split, one.name) for one in new}
        return new

    @contextmanager
    def _open_locked(self) -> Iterator[IO[str] | None]:
        """Open the list and lock it against the other ranks."""
        if self.path is None:
            yield None
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            if fcntl is not None:
                with suppress(OSError):  # some network file systems have no locks; a sample may be listed twice there
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _load(self, file: IO[str]) -> None:
        file.seek(0)
        rows = (line.split("\t") for line in file.read().splitlines()[1:])
        self._listed |= {(row[0], row[1]) for row in rows if len(row) == 3}


def _line_start(file: IO[str]) -> str:
    """Return the text before the next line: the header, a line break, or nothing."""
    file.seek(0)
    content = file.read()
    return _HEADER if not content else "" if content.endswith("\n") else "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())
