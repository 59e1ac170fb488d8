"""EmbeddingCache: embeddings of captions by a frozen text encoder, on disk and in memory."""

import uuid
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darkroom.lightning_modules.diffusion.text.encoder import WarnOnce

_MEMORY = 256 * 2**20  # bytes of embeddings in memory
_HASH, _LENGTH = 16, 4  # bytes of a file's head


class Embeddings(NamedTuple):
    """Embeddings of a caption.

    Attributes:
        rows: float16 (L, dim), one for each token, read-only.
        length: number of tokens of the whole caption, at least L.
    """

    rows: np.ndarray
    length: int


class EmbeddingCache:
    """Embeddings by caption: a file for each, ``<folder>/<two digits>/<hash of the caption>``.

    Ranks and runs may share a folder, because files are written atomically. A file holds a hash of the rest, the caption's
    length and the rows; a damaged file counts as missing. If the folder cannot be written, a warning is shown once, and
    nothing is written from then on.

    Args:
        folder: of one encoder; created if it is missing. None: nothing is written.
        dim: of an embedding.
        memory: bytes of the embeddings used last that are cached in memory, too.
    """

    def __init__(self, folder: Path | None, dim: int, memory: int = _MEMORY) -> None:
        self.folder, self.dim, self.memory = folder, dim, memory
        self._recent: OrderedDict[str, Embeddings] = OrderedDict()
        self._bytes = 0
        self._warn_unwritable = WarnOnce()

    def get(self, caption: str) -> Embeddings | None:
        """Return the embeddings of a caption; None: they are not cached."""
        if caption in self._recent:
            self._recent.move_to_end(caption)
            return self._recent[caption]
        if self.folder is None:
            return None
        try:
            data = _path(self.folder, caption).read_bytes()
        except OSError:
            return None
        if data[:_HASH] != _hash(data[_HASH:]):
            return None
        rows = np.frombuffer(data, np.float16, offset=_HASH + _LENGTH).reshape(-1, self.dim).copy()
        embeddings = Embeddings(rows, int.from_bytes(data[_HASH:][:_LENGTH], "little"))
        self._remember(caption, embeddings)
        return embeddings

    def put(self, caption: str, embeddings: Embeddings) -> None:
        """Cache the embeddings of a caption."""
        self._remember(caption, embeddings)
        if self.folder is not None and not self._warn_unwritable.shown:
            try:
                self._write(_path(self.folder, caption), embeddings)
            except OSError as error:
                self._warn_unwritable(
                    f"embeddings of captions cannot be written to {self.folder} ({error}); from now on they are cached "
                    "only in memory. Set model.text.cache_dir to another folder, or model.text.cache to memory"
                )

    def _write(self, path: Path, embeddings: Embeddings) -> None:
        """Write a file atomically."""
        data = embeddings.length.to_bytes(_LENGTH, "little") + embeddings.rows.astype(np.float16).tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_bytes(_hash(data) + data)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)  # incomplete if the disk is full
            raise

    def _remember(self, caption: str, embeddings: Embeddings) -> None:
        if caption in self._recent:
            self._bytes -= self._recent.pop(caption).rows.nbytes
        self._recent[caption] = embeddings
        self._bytes += embeddings.rows.nbytes
        while self._bytes > self.memory:
            self._bytes -= self._recent.popitem(last=False)[1].rows.nbytes


def _path(folder: Path, caption: str) -> Path:
    name = _hash(caption.encode("utf-8", "surrogatepass")).hex()
    return folder / name[:2] / name[2:]


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=_HASH).digest()
