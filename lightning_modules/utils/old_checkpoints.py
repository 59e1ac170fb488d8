"""Checkpoints of the previous version: the same weights, under the class names and arguments of that time."""

import io
from pathlib import Path
from typing import IO

import torch

from darkroom.renames import with_todays_arguments


def with_todays_names(checkpoint: str | Path | IO[bytes], class_path: str = "") -> str | Path | IO[bytes]:
    """Return a checkpoint or, if its hyper-parameters have names of the previous version, a renamed copy in memory.

    Args:
        checkpoint: its file; anything else (an address, an open file) is returned as it is.
        class_path: of the class that loads it, for checkpoints that do not name theirs.
    """
    if not isinstance(checkpoint, str | Path) or not Path(checkpoint).is_file():
        return checkpoint
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    today = with_todays_arguments(content, class_path)
    if today is content or today["hyper_parameters"] == content["hyper_parameters"]:
        return checkpoint
    copy = io.BytesIO()
    torch.save(today, copy)
    copy.seek(0)
    return copy
