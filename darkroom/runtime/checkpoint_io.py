"""AtomicCheckpointIO: write a checkpoint completely or not at all, and read it as data, never as code."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from darkroom.errors import Stopped, StorageError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name in the same folder, flush it to the disk, then rename it.

    A process killed at any moment, a power failure and a full disk leave the previous checkpoint intact
    (tests/faults/test_kill.py, test_machine.py). Lightning writes into the folder for temporary files, often on another
    disk, and copies the file from there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            StorageError: the disk refuses it; gives the reason.
        """
        if "://" in str(path):  # remote storage: as atomic as Lightning and that storage make it
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
                        f"the checkpoint {path} could not be written ({cause.strerror or cause}); "
                        + (f"the previous one is intact in {path}" if path.is_file() else "there is no previous one")
                    ) from error
            raise
        _sync_folder(path.parent)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of tensors and plain values; refuse any other content, whatever ``weights_only`` says."""
        return super().load_checkpoint(path, map_location=map_location, weights_only=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _sync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk, where the file system supports it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)
