"""Samples that cannot be read: replaced in training, left out elsewhere; listed in a file, counted, and within a budget."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import Dataset

from darkroom.datamodules.loading import BAD_SAMPLES, Key, KeyedDataset
from darkroom.errors import DataError

try:
    import fcntl
except ImportError:  # not POSIX: one process at a time is all there is
    fcntl = None

BAD_SAMPLES_FILE = "bad_samples.tsv"
UNREADABLE = (DataError, OSError)
_TRIES = 100  # samples drawn in the place of one
_SAID = 5  # on the console, of each rank
_HEADER = "split\tsample\treason\n"

_log = logging.getLogger("lightning.pytorch")


class BadSample(NamedTuple):
    """A sample, by its file or its index, and why it cannot be read."""

    name: str
    reason: str


class Found(NamedTuple):
    """What was read of a batch: samples, or a whole batch that the data set made; and what could not be read."""

    samples: list[dict[str, Any]] | dict[str, Any]
    bad: list[BadSample]


def name_of(dataset: Dataset, index: int) -> str:
    """What a data set calls a sample, else its file, else its index."""
    if hasattr(dataset, "name_of"):
        return dataset.name_of(index)
    paths = getattr(dataset, "paths", None)
    return str(paths[index]) if paths else f"sample {index}"


class Skipping(Dataset):
    """A data set addressed by (epoch, index) that goes on where a sample cannot be read.

    Args:
        keyed: the data set.
        seed: with epoch and index decides which sample stands in for a bad one.
        replace: another sample stands in, as training needs batches of one size; else a bad one is left out.
    """

    def __init__(self, keyed: KeyedDataset, seed: int, replace: bool) -> None:
        self.keyed, self.seed, self.replace = keyed, seed, replace
        self.dataset = keyed.dataset

    def __len__(self) -> int:
        return len(self.keyed)

    def __getitems__(self, keys: Sequence[Key | int]) -> Found:
        if getattr(self.keyed, "makes_batches", True):
            with suppress(*UNREADABLE):
                return Found(self.keyed.__getitems__(keys), [])
        found = Found([], [])
        for key in keys:
            self._read(key, found)
        return found

    def _read(self, key: Key | int, found: Found) -> None:
        """Adds a sample, or the one that stands in for it, and what is bad on the way."""
        for epoch, index in self._candidates(*(key if isinstance(key, tuple) else (0, key))):
            try:
                found.samples.append(self.keyed[epoch, index])
                return
            except UNREADABLE as error:
                found.bad.append(BadSample(name_of(self.dataset, index), str(error)))
        if self.replace:
            raise DataError(f"{_TRIES} samples drawn in turn cannot be read; the first: {found.bad[-_TRIES].reason}")

    def _candidates(self, epoch: int, index: int) -> Iterator[Key]:
        yield epoch, index
        if self.replace:
            draw = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch, index))))
            for _ in range(_TRIES - 1):
                yield epoch, int(draw.integers(len(self)))


def collate_found(found: Found, collate: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """A batch of what was read, with what was not under a key that the loader takes out again."""
    batch = collate(found.samples) if found.samples else {}
    return batch | {BAD_SAMPLES: found.bad} if found.bad else batch


class StandingIn(Dataset):
    """A data set addressed by int, outside of a loader, where others stand in for samples that cannot be read.

    Whatever else the data set offers (``paths``, ``labels``) is found here too.

    Args:
        dataset: addressed by int.
        seed: see ``Skipping``.
        note: is told what cannot be read.
    """

    def __init__(self, dataset: Dataset, seed: int, note: Callable[[list[BadSample]], None]) -> None:
        self.skipping, self.note = Skipping(KeyedDataset(dataset), seed, replace=True), note

    def __len__(self) -> int:
        return len(self.skipping)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a for loop over the data set
        (sample,), bad = self.skipping.__getitems__([index])
        self.note(bad)
        return sample

    def __getattr__(self, name: str) -> Any:
        if name == "skipping" or name.startswith("__"):  # while it is unpickled, and what a class has or has not
            raise AttributeError(name)
        return getattr(self.skipping.dataset, name)


class BadSamples:
    """What could not be read in a run: each sample once in ``bad_samples.tsv``, which all ranks and continued runs share.

    Args:
        budget: so many of a split; one more is an error.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.path: Path | None = None  # known when the run is
        self._listed: set[tuple[str, str]] = set()
        self._found = 0

    def note(self, split: str, found: Sequence[BadSample]) -> None:
        """Lists those that are new, and says so.

        Raises:
            DataError: they are more than the budget.
        """
        found = [one._replace(name=_one_line(one.name), reason=_one_line(one.reason)) for one in found]
        if all((split, one.name) in self._listed for one in found):
            return
        new = self._list(split, {one.name: one for one in found})
        for one in new:
            self._found += 1
            if self._found <= _SAID:
                _log.warning(f"bad sample ({split}): {one.reason}")
            elif self._found == _SAID + 1:
                _log.warning(f"more bad samples are found; {self._where}")
        if new and self._counted(split) > self.budget:
            raise DataError(
                f"more than {self.budget} samples of the {split} split cannot be read, the last: {new[-1].reason}; "
                f"{self._where}. Mend or remove them, or raise data.bad_sample_budget"
            )

    def count(self, split: str) -> int:
        """How many samples of a split all ranks have found so far."""
        if self.path is not None and self.path.is_file():
            with self.path.open(encoding="utf-8") as file:
                self._remember(file)
        return self._counted(split)

    def report(self) -> None:
        """Says how many there are."""
        for split in sorted({split for split, _ in self._listed}):
            rank_zero_info(f"bad samples ({split}): {self.count(split)}; {self._where}")

    @property
    def _where(self) -> str:
        return f"they are listed in {self.path}" if self.path else "without a run they are listed nowhere"

    def _counted(self, split: str) -> int:
        return sum(listed == split for listed, _ in self._listed)

    def _list(self, split: str, found: dict[str, BadSample]) -> list[BadSample]:
        """Appends those that no rank has listed before, and returns them."""
        with self._opened() as file:
            if file is not None:
                self._remember(file)
            new = [one for name, one in found.items() if (split, name) not in self._listed]
            if file is not None and new:
                lines = "".join(f"{split}\t{one.name}\t{one.reason}\n" for one in new)
                # In one piece, so that lines of several ranks do not mix, and after one that a killed process began.
                os.write(file.fileno(), f"{_beginning(file)}{lines}".encode())
        self._listed |= {(split, one.name) for one in new}
        return new

    @contextmanager
    def _opened(self) -> Iterator[IO[str] | None]:
        """The list, which no other rank changes meanwhile."""
        if self.path is None:
            yield None
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            if fcntl is not None:
                with suppress(OSError):  # some network file systems have no locks: a sample may then be listed twice
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _remember(self, file: IO[str]) -> None:
        file.seek(0)
        rows = (line.split("\t") for line in file.read().splitlines()[1:])
        self._listed |= {(row[0], row[1]) for row in rows if len(row) == 3}


def _beginning(file: IO[str]) -> str:
    """What must stand before the next line."""
    file.seek(0)
    content = file.read()
    return _HEADER if not content else "" if content.endswith("\n") else "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())
