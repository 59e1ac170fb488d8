"""AtomicCheckpointIO: write a checkpoint completely or not at all, and read tensors and plain values alone."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from darkroom.errors import Stopped, StorageError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint IO that writes to a temporary name in the same folder, flushes to the disk, then renames.

    A process killed at any moment, a power failure and a full disk leave the previous checkpoint intact
    (tests/faults/test_kill.py, test_machine.py). Lightning writes to the folder of temporary files, often on another
    disk, and copies the file from there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            StorageError: the file cannot be written; the message has the reason.
        """
        if "://" in str(path):  # remote storage: not atomic by itself
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        temporary = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            for cause in _causes(error):  # torch.save wraps the error of the file
                if isinstance(cause, Stopped):
                    raise cause from None
                if isinstance(cause, OSError):
                    raise StorageError(
                        f"the checkpoint {path} cannot be written ({cause.strerror or cause}); "
                        + (f"the previous one is intact in {path}" if path.is_file() else "no previous one exists")
                    ) from error
            raise
        _sync_folder(path.parent)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of tensors and plain values; reject other content, whatever ``weights_only`` is."""
        return super().load_checkpoint(path, map_location=map_location, weights_only=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, if the file system supports it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)
