"""Shards: tar files of samples in WebDataset's layout, local or remote, read from start to end."""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
from torch.utils.data import Dataset

from darkroom.datamodules.captions.base import ImageFormat
from darkroom.datamodules.captions.caption_text import captions_in
from darkroom.datamodules.io.image_files import EXTENSIONS
from darkroom.errors import DataError, UsageError
from darkroom.paths import install_command

INDEX = "shards.json"  # number of samples of every shard
_PIPES = "DARKROOM_ALLOW_PIPE"  # an environment variable, since a config must not permit its own commands
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+:")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class StoredSample(NamedTuple):
    """Files of a sample by extension; their names have its key before the first dot."""

    key: str
    files: dict[str, bytes]


class NamedBytes(io.BytesIO):
    """In-memory file with a name for messages."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name

    def __repr__(self) -> str:
        return self.name


def is_remote(address: str) -> bool:
    """Return True if an address has a protocol, such as ``https:`` or ``pipe:``; False for a path."""
    return _REMOTE.match(address) is not None


def open_address(address: str) -> IO[bytes]:
    """Open a file, or any address that the package webdataset supports: ``https:``, ``gs:``, ``hf:``, ``pipe:<command>``.

    Raises:
        UsageError: webdataset is not installed, or does not support the protocol.
    """
    if not is_remote(address):
        return open(address, "rb")
    try:
        from webdataset.gopen import gopen
    except ImportError:
        raise UsageError(
            f"{address} is remote, and reading it needs the package webdataset: {install_command('shards')}"
        ) from None
    try:
        return gopen(address)
    except ValueError as error:
        raise UsageError(
            f"{address} cannot be opened ({error}); use pipe: with a command that writes it to its output"
        ) from error


def address_of(root: str, name: str) -> str:
    """Return the path or address of a shard in ``root``; a name with a protocol is returned unchanged."""
    return name if is_remote(name) else f"{root.rstrip('/')}/{name}" if is_remote(root) else str(Path(root, name))


def _expand_ranges(pattern: str) -> Iterator[str]:
    """Yield the names of a pattern: ``a-{08..11}.tar`` -> ``a-08.tar``, ``a-09.tar``, ``a-10.tar``, ``a-11.tar``."""
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand_ranges(f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}")


def check_pattern(setting: str, root: str, pattern: str) -> None:
    """Check a pattern of shard names before anything is opened.

    Raises:
        UsageError: the pattern is a command that is not permitted, a descending range or an absolute path, or has a ``*``
            although ``root`` is remote.
    """
    for name, address in {"root": root, setting: pattern}.items():
        if address.startswith("pipe:") and os.environ.get(_PIPES) != "1":
            raise UsageError(
                f"data.{name} is {address}, which runs a shell command; check that you trust it, then set {_PIPES}=1 in "
                "the environment"
            )
    for first, last in _RANGE.findall(pattern):
        if int(first) > int(last):
            raise UsageError(f"data.{setting} is {pattern}, a descending range; write {{{last}..{first}}}")
    if is_remote(pattern):
        return
    if pattern.startswith("/") or Path(pattern).is_absolute():
        raise UsageError(f"data.{setting} must be names in data.root, without a folder, got {pattern}")
    if is_remote(root) and "*" in pattern:
        raise UsageError(
            f"data.{setting} is {pattern}, but the remote {root} cannot be listed; write NAME-{{000000..000099}}.tar"
        )


def list_shards(root: str, pattern: str) -> list[str]:
    """List the names of shards relative to ``root``, from a pattern with ``{000..099}``, or with ``*`` and ``?``.

    Raises:
        DataError: no file matches, or a file of a numbered pattern is missing.
    """
    names = list(_expand_ranges(pattern))
    if is_remote(address_of(root, names[0])):
        return names
    names = [
        name
        for part in names
        for name in (
            sorted(str(p.relative_to(root)) for p in Path(root).glob(part)) if set(part) & set("*?") else [part]
        )
    ]
    missing = [name for name in names if not Path(root, name).is_file()]
    if missing or not names:
        raise DataError(f"{root} has no shards {', '.join(missing[:5]) or pattern}; write them with darkroom shards")
    return names


def _key_and_extension(name: str) -> tuple[str, str]:
    folder, _, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return f"{folder}/{key}" if folder else key, extension.lower()


def _group_members(archive: tarfile.TarFile) -> Iterator[tuple[str, Iterator[tarfile.TarInfo]]]:
    """Yield key and files of each sample, which are adjacent in the archive."""
    files = (member for member in archive if member.isfile() and not Path(member.name).name.startswith((".", "__")))
    return groupby(files, key=lambda member: _key_and_extension(member.name)[0])


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _read_error(address: str, error: Exception) -> DataError:
    if is_remote(address):
        return DataError(f"{address} cannot be fetched ({error}); check data.root and the network")
    return DataError(f"{address} cannot be read as a shard ({error}); replace it")


def read_samples(address: str) -> Iterator[StoredSample]:
    """Yield the samples of a shard, in its order.

    Raises:
        DataError: the shard cannot be read.
    """
    try:
        with open_address(address) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            for key, members in _group_members(archive):
                yield StoredSample(key, {_key_and_extension(m.name)[1]: _content(archive, m) for m in members})
                archive.members = []  # type: ignore[attr-defined]  # undocumented: the list of all members so far
            while stream.read(1 << 16):  # a command would fail if its output were not read to the end
                pass
    except (OSError, EOFError, tarfile.TarError) as error:
        raise _read_error(address, error) from error


def count_samples(address: str) -> int:
    """Count the samples of a shard; only the headers of a local file are read."""
    if is_remote(address):
        return sum(1 for _ in read_samples(address))
    try:
        with tarfile.open(address) as archive:
            return sum(1 for _ in _group_members(archive))
    except (OSError, EOFError, tarfile.TarError) as error:
        raise _read_error(address, error) from error


def shard_sizes(root: str, names: Sequence[str]) -> list[int]:
    """Return the number of samples of every shard from ``shards.json`` in ``root``; count local shards that it lacks.

    Raises:
        DataError: the file is damaged, or lacks remote shards.
    """
    path = address_of(root, INDEX)
    known: dict[str, int] = {}
    if is_remote(path) or Path(path).is_file():
        try:
            with open_address(path) as file:
                content = file.read()
        except OSError as error:
            raise _read_error(path, error) from error
        try:
            known = json.loads(content)
            if not all(isinstance(size, int) and size > 0 for size in known.values()):
                raise ValueError("values must be numbers above 0")
        except (ValueError, AttributeError) as error:
            raise DataError(f"{path}: must map the name of every shard to its number of samples ({error})") from error
    unknown = [name for name in names if name not in known and is_remote(address_of(root, name))]
    if unknown:
        raise DataError(
            f"{path}: the number of samples of {unknown[0]} and {len(unknown) - 1} other shards is missing; write "
            + '{"NAME": NUMBER, ...} there, or write the shards with darkroom shards'
        )
    return [known.get(name) or count_samples(address_of(root, name)) for name in names]


class ShardReader:
    """Reader of a shard from its start that caches samples until they are requested.

    Args:
        address: path or address of the shard.
        size: expected number of samples.
        window: how far behind the latest sample a request may be.
    """

    def __init__(self, address: str, size: int, window: int) -> None:
        self.address, self.size, self.window = address, size, window
        self.next, self.last_use = 0, 0
        self.passed: dict[int, StoredSample] = {}
        self._samples = read_samples(address)
        self._damage: str | None = None

    def can_reach(self, position: int) -> bool:
        """Return True if a sample is cached or not read yet."""
        return position >= self.next or position in self.passed

    def _refuse(self, holds: str) -> NoReturn:
        raise DataError(
            f"{self.address} has {holds} samples, but {INDEX} states {self.size}; correct {INDEX}, or remove it (local "
            "shards are then counted)"
        )

    def _next_sample(self) -> StoredSample | None:
        """Read the next sample; None at the end. A damaged shard is not read again and raises the same error."""
        if self._damage is not None:
            raise DataError(self._damage)
        try:
            return next(self._samples, None)
        except DataError as error:
            self._damage = str(error)
            raise

    def take(self, position: int) -> StoredSample:
        """Return the sample at a position that ``can_reach`` accepts."""
        oldest = position - self.window  # positions up to here are not requested again
        while self.next <= position:
            sample = self._next_sample()
            if sample is None:
                self._refuse(str(self.next))
            if self.next > oldest:
                self.passed[self.next] = sample
            self.next += 1
            if self.next == self.size and self._next_sample() is not None:
                self._refuse("more")
        self.passed = {number: sample for number, sample in self.passed.items() if number > oldest}
        return self.passed.pop(position)


class ShardSamples(Dataset[dict[str, Any]]):
    """Samples of shards, with the entries of ``CaptionedFiles``; reading is fast in the order of ``ShardSampler``.

    Args:
        addresses: paths or addresses of the shards.
        sizes: number of samples in each shard.
        image_format: see ``ImageFormat``.
        all_captions: add ``captions`` to every sample.
        window: see ``ShardReader``.
        patience: samples of other shards after which a shard is closed.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        sizes: Sequence[int],
        image_format: ImageFormat,
        all_captions: bool,
        window: int,
        patience: int,
    ) -> None:
        self.addresses, self.sizes, self.image_format = addresses, sizes, image_format
        self.all_captions, self.window, self.patience = all_captions, window, patience
        self._ends = np.cumsum(sizes)
        self._process: int | None = None
        self._reset()

    def _reset(self) -> None:
        self._process, self._clock = os.getpid(), 0
        self._readers: list[ShardReader] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": [], "_process": None}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _stored(self, shard: int, position: int) -> StoredSample:
        if self._process != os.getpid():  # a worker must not share open files with its parent
            self._reset()
        self._clock += 1
        address = self.addresses[shard]
        ready = [reader for reader in self._readers if reader.address == address and reader.can_reach(position)]
        reader = max(ready, key=lambda reader: reader.next, default=None)
        if reader is None:
            reader = ShardReader(address, self.sizes[shard], self.window)
            self._readers.append(reader)
        sample = reader.take(position)
        reader.last_use = self._clock
        self._readers = [
            reader
            for reader in self._readers
            if self._clock - reader.last_use < self.patience and (reader.passed or reader.next < reader.size)
        ]
        return sample

    def _place(self, index: int) -> tuple[int, int]:
        """Return the shard of a sample and its position there."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, int(index - self._ends[shard] + self.sizes[shard])

    def name_of(self, index: int) -> str:
        """Return the name of a sample for messages."""
        shard, position = self._place(index)
        return f"{self.addresses[shard]}, sample {position}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a for loop over the data set
        shard, position = self._place(index)
        sample = self._stored(shard, position)
        place = f"{self.addresses[shard]}/{sample.key}"
        extension = next((name for name in sample.files if f".{name}" in EXTENSIONS), None)
        captions = read_captions(sample, place)
        if extension is None or not captions:
            lacking = "image" if extension is None else "caption"
            raise DataError(f"{place} has no {lacking}, only {', '.join(sample.files)}; write the shard again")
        file = NamedBytes(sample.files[extension], f"{place}.{extension}")
        found = {"image": self.image_format.read(file), "caption": captions[0], "path": file.name}
        return found | {"captions": captions} if self.all_captions else found


def read_captions(sample: StoredSample, place: str) -> tuple[str, ...]:
    """Read the captions in a sample's ``.txt``, or in the entry ``caption`` of its ``.json``, a text or a list of texts.

    Raises:
        DataError: the caption cannot be read.
    """
    try:
        if "txt" in sample.files:
            return tuple(captions_in(sample.files["txt"].decode()))
        return tuple(captions_in(json.loads(sample.files.get("json", b"{}")).get("caption")))
    except (ValueError, AttributeError) as error:
        raise DataError(f"{place}: the caption cannot be read ({error}); write the shard again") from error
