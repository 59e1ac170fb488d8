"""EmbeddingCache: what a frozen text encoder says of each caption, on disk and, the last ones used, in memory."""

import uuid
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darkroom.lightning_modules.diffusion.text.encoder import Once

_MEMORY = 256 * 2**20  # bytes of embeddings kept in memory
_HASH, _LENGTH = 16, 4  # bytes of a file's head


class Embeddings(NamedTuple):
    """What an encoder says of a caption.

    Attributes:
        rows: float16 (L, dim), one for each token that was read; not to be written to.
        length: tokens of the whole caption, L or more.
    """

    rows: np.ndarray
    length: int


class EmbeddingCache:
    """Embeddings by caption: a file for each, ``<folder>/<two digits>/<hash of the caption>``.

    Ranks and runs may share a folder: files appear whole, and whoever comes last writes the same again. A file is the hash
    of the rest, the caption's length and the rows; one that is damaged counts as missing. A folder that is full or must
    not be written is said once, and no more is written.

    Args:
        folder: of one encoder; made if it is not there. None: nothing is written.
        dim: of an embedding.
        memory: bytes of the embeddings last used that are kept beside the files.
    """

    def __init__(self, folder: Path | None, dim: int, memory: int = _MEMORY) -> None:
        self.folder, self.dim, self.memory = folder, dim, memory
        self._recent: OrderedDict[str, Embeddings] = OrderedDict()
        self._bytes = 0
        self._warn_unwritable = Once()

    def get(self, caption: str) -> Embeddings | None:
        """What was put for a caption; None: it is not here."""
        if caption in self._recent:
            self._recent.move_to_end(caption)
            return self._recent[caption]
        if self.folder is None:
            return None
        try:
            data = self._path(caption).read_bytes()
        except OSError:
            return None
        if data[:_HASH] != _hash(data[_HASH:]):
            return None
        rows = np.frombuffer(data, np.float16, offset=_HASH + _LENGTH).reshape(-1, self.dim).copy()
        embeddings = Embeddings(rows, int.from_bytes(data[_HASH:][:_LENGTH], "little"))
        self._remember(caption, embeddings)
        return embeddings

    def put(self, caption: str, embeddings: Embeddings) -> None:
        """Keeps what an encoder says of a caption."""
        self._remember(caption, embeddings)
        if self.folder is not None and not self._warn_unwritable.said:
            try:
                self._write(self._path(caption), embeddings)
            except OSError as error:
                self._warn_unwritable(
                    f"embeddings of captions cannot be written to {self.folder} ({error}); from now on they are kept in "
                    "memory alone, and made again when they are needed again. Give another folder as model.text.cache_dir, "
                    "or set model.text.cache to memory"
                )

    def _write(self, path: Path, embeddings: Embeddings) -> None:
        """Writes a file whole or not at all."""
        data = embeddings.length.to_bytes(_LENGTH, "little") + embeddings.rows.astype(np.float16).tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_bytes(_hash(data) + data)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)  # half of it, where the disk is full
            raise

    def _path(self, caption: str) -> Path:
        name = _hash(caption.encode("utf-8", "surrogatepass")).hex()
        return self.folder / name[:2] / name[2:]

    def _remember(self, caption: str, embeddings: Embeddings) -> None:
        if caption in self._recent:
            self._bytes -= self._recent.pop(caption).rows.nbytes
        self._recent[caption] = embeddings
        self._bytes += embeddings.rows.nbytes
        while self._bytes > self.memory:
            self._bytes -= self._recent.popitem(last=False)[1].rows.nbytes


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=_HASH).digest()
