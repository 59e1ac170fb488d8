"""EmbeddingCache: what a frozen text encoder says of each caption, on disk and, the last ones used, in memory."""

import os
import uuid
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path

import numpy as np

from darkroom.errors import UsageError

_MEMORY = 256 * 2**20  # bytes of embeddings kept in memory
_HASH = 16  # bytes


def default_folder() -> Path:
    """``darkroom/text`` in the user's cache folder: ``$XDG_CACHE_HOME``, or else ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkroom" / "text"


class EmbeddingCache:
    """Embeddings by caption: a file for each, ``<folder>/<two digits>/<hash of the caption>``, of float16 (L, dim).

    Ranks and runs may share a folder: files appear whole, and whoever comes last writes the same again. A file begins with
    the hash of the rest; one that is damaged counts as missing.

    Args:
        folder: of one encoder; made if it is not there.
        dim: of an embedding.
        memory: bytes of the embeddings last used that are kept beside the files.

    Raises:
        UsageError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, dim: int, memory: int = _MEMORY) -> None:
        self.folder, self.dim, self.memory = folder, dim, memory
        self._recent: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0

    def get(self, caption: str) -> np.ndarray | None:
        """A caption's embeddings, float16 (L, dim), not to be written to; None: they are not here."""
        if caption in self._recent:
            self._recent.move_to_end(caption)
            return self._recent[caption]
        try:
            data = self._path(caption).read_bytes()
        except OSError:
            return None
        if data[:_HASH] != _hash(data[_HASH:]):
            return None
        rows = np.frombuffer(data, np.float16, offset=_HASH).reshape(-1, self.dim).copy()
        self._remember(caption, rows)
        return rows

    def put(self, caption: str, rows: np.ndarray) -> None:
        """Keeps a caption's embeddings, float16 (L, dim)."""
        path = self._path(caption)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        data = rows.astype(np.float16).tobytes()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(_hash(data) + data)
            temporary.replace(path)  # whole or not at all
        except OSError as error:
            raise UsageError(
                f"model.text.cache_dir: embeddings cannot be written to {self.folder} ({error}); give another folder"
            ) from error
        self._remember(caption, rows)

    def _path(self, caption: str) -> Path:
        name = _hash(caption.encode("utf-8", "surrogatepass")).hex()
        return self.folder / name[:2] / name[2:]

    def _remember(self, caption: str, rows: np.ndarray) -> None:
        if caption in self._recent:
            self._bytes -= self._recent.pop(caption).nbytes
        self._recent[caption] = rows
        self._bytes += rows.nbytes
        while self._bytes > self.memory:
            self._bytes -= self._recent.popitem(last=False)[1].nbytes


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=_HASH).digest()
