"""Pretrained weights of torchvision."""

from pathlib import Path, PurePosixPath
from urllib.error import URLError
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torchvision.models import WeightsEnum

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.safe_load import read_safely


def fetch_weights(weights: WeightsEnum, option: str = "model.weights", remedy: str | None = None) -> dict[str, Tensor]:
    """Return the state dict of torchvision's weights; downloaded unless it is in torch's hub folder.

    Args:
        weights: to be fetched.
        option: key that asks for them, for messages.
        remedy: command that gets the file without this download, for messages.

    Raises:
        UsageError: the file cannot be downloaded (states where to put it), or holds something else.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlsplit(weights.url).path).name)
    try:
        if not path.is_file():
            return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        way = f"run {remedy}, or get the file" if remedy else "get the file"
        raise UsageError(
            f"{option}: {weights.url} cannot be fetched ({error}); {way} elsewhere and put it into {path.parent}"
        ) from error
    return read_safely(f"{option}:", path)  # torchvision would run code in it
