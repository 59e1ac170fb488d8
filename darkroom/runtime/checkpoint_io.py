"""CheckpointFile: a checkpoint gets onto the disk whole or not at all, and is read as data, never as code."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from darkroom.errors import Stopped, StorageError


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint beside its place, has it reach the disk, and only then gives it its name.

    A process killed at any moment, a machine that loses power and a disk that is full leave the checkpoint that was there
    before. (Lightning's own way writes into the folder for temporary files, often another disk, from which it is copied.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint. Raises StorageError, with the reason, where the disk does not take it."""
        if "://" in str(path):  # not a file: Lightning's own way, whole or not at all as far as that place can do it
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        aside = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException as error:
            aside.unlink(missing_ok=True)
            for cause in _causes(error):  # torch.save has words of its own for what a file says
                if isinstance(cause, Stopped):
                    raise cause from None
                if isinstance(cause, OSError):
                    raise StorageError(
                        f"the checkpoint {path} could not be written ({cause.strerror or cause}); "
                        + (f"the one before it is whole, in {path}" if path.is_file() else "there is none before it")
                    ) from error
            raise
        _sync_folder(path.parent)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint of tensors and plain values; what holds anything else is refused, whatever is asked for."""
        return super().load_checkpoint(path, map_location=map_location, weights_only=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _sync_folder(folder: Path) -> None:
    """Has a new name in a folder reach the disk, where its file system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)
