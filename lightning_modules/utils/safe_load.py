"""Safe loading of ``torch.save`` files: tensors and plain values, never code."""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from darkroom.errors import UsageError
from darkroom.renames import with_todays_arguments

# How torch's errors name the functions and classes that a file would call.
_WANTED = re.compile(r"GLOBAL (\S+)|TorchScript")
_PICKLE = b"\x80"  # first byte of a pickle that torch did not write


class Damaged(UsageError):
    """Missing file, damaged file, or file of another kind."""


def require_whole(named: str, path: Path) -> None:
    """Compare a file's bytes with the checksums that torch.save wrote; torch.load does not check them.

    Raises:
        Damaged: a checksum differs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception:  # no archive, or a broken one: torch.load raises a better error
        return
    if broken is not None:
        raise Damaged(f"{named} {path} is damaged: the checksum of {broken} differs; copy or download it again")


def read_safely(named: str, path: Path, mmap: bool = False) -> Any:
    """Load a file of ``torch.save`` on the CPU.

    Args:
        named: key that is set to the file, such as ``ckpt_path``, for messages.
        path: the file.
        mmap: leave tensors on the disk until they are read.

    Raises:
        Damaged: the file does not exist, is a folder or cannot be loaded.
        UsageError: it holds other objects than tensors and plain values, which are code. No code has run.
    """
    if path.is_dir():
        raise Damaged(f"{named} {path} is a folder; it must be a file of torch.save, such as a checkpoint")
    if not path.is_file():
        raise Damaged(f"{named} {path} does not exist")
    if not mmap:
        require_whole(named, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch asks for reports on files of other kinds
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except OSError as error:
        raise Damaged(f"{named} {path} cannot be loaded ({error})") from error
    except Exception as error:  # a file can be damaged in many ways, and torch advises to load it unsafely
        with path.open("rb") as file:
            foreign = file.read(1) == _PICKLE
        wanted = _WANTED.search(str(error))
        if wanted or foreign:
            what = (wanted[1] or "TorchScript").rstrip(".") if wanted else "a pickle of Python objects"
            raise UsageError(
                f"{named} {path} holds code ({what}) beside tensors and plain values; it was not loaded, because "
                "loading would run that code. If you trust its author, load it in Python yourself and save what you "
                "need, such as its state dict, to a new file by torch.save"
            ) from None
        kind = type(error).__name__
        raise Damaged(
            f"{named} {path} cannot be loaded ({kind}): damaged, or not written by torch.save; copy or download it again"
        ) from error
    return with_todays_arguments(content)
