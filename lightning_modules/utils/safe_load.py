"""Reading what ``torch.save`` wrote: tensors and plain values, never code."""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from darkroom.errors import UsageError
from darkroom.renames import with_todays_arguments

# How torch names what a file wants to call or to build.
_WANTED = re.compile(r"GLOBAL (\S+)|TorchScript")
_PICKLE = b"\x80"  # how a pickle begins that torch did not write


class Damaged(UsageError):
    """A file that is missing, or not whole, or something else."""


def require_whole(named: str, path: Path) -> None:
    """Compares a file's bytes with the sums that torch.save wrote beside them, at which torch.load does not look.

    Raises:
        Damaged: they are other bytes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception:  # it is no archive, or a broken one, of which torch.load has more to say
        return
    if broken is not None:
        raise Damaged(f"{named} {path} is damaged: {broken} in it has changed since it was written; get it anew")


def read_safely(named: str, path: Path, mmap: bool = False) -> Any:
    """What lies in a file of ``torch.save``, on the CPU.

    Args:
        named: the setting that says so, such as ``ckpt_path``, for messages.
        path: the file.
        mmap: leave tensors on the disk until they are looked at.

    Raises:
        Damaged: there is no such file, or nothing can be made of it.
        UsageError: it holds other objects than tensors and plain values. Those are code, of which none has run.
    """
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
                f"{named} {path} holds code ({what}), and not tensors and plain values alone; it is refused, since loading "
                "it would run whatever it says, and nothing of it has run. If you trust whoever made it, load it in a "
                "Python of your own and write what is needed, such as its state dict, into a new file by torch.save"
            ) from None
        kind = type(error).__name__
        raise Damaged(
            f"{named} {path} cannot be loaded ({kind}): it is damaged, or torch.save did not write it; get it anew"
        ) from error
    return with_todays_arguments(content)
