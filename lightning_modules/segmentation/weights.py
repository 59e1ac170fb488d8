"""Starting from weights that lie in a file: a published state dict, or a checkpoint of ours."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from darkroom.errors import UsageError


def load_weights(network: nn.Module, path: Path, option: str, new: Sequence[str] = ()) -> None:
    """Loads a network's weights; those whose names start with one of ``new`` may be missing in the file.

    Args:
        network: takes them.
        path: state dict, plain or in a Lightning checkpoint of ours. Loaded safely: a file that would run code is refused.
        option: what the user set to this file, for the message.
        new: prefixes of parameters that the file need not have.

    Raises:
        UsageError: if the file cannot be read, or which keys differ.
    """
    if not path.is_file():
        raise UsageError(f"{option}: {path} does not exist; give a file with the network's state dict")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UsageError(f"{option}: {path} cannot be loaded safely as weights ({error})") from error
    if "state_dict" in state:
        state = {k.removeprefix("network."): v for k, v in state["state_dict"].items() if k.startswith("network.")}
    state.pop(
        "mask_values", None
    )  # published checkpoints of the widely used U-Net carry the grey values of their masks
    ours = network.state_dict()
    missing = [name for name in ours if name not in state and not name.startswith(tuple(new))]
    unknown = [name for name in state if name not in ours]
    other = [
        f"{name} ({tuple(state[name].shape)} there, {tuple(value.shape)} here)"
        for name, value in ours.items()
        if name in state and state[name].shape != value.shape
    ]
    found = {"missing there": missing, "unknown here": unknown, "of another shape": other}
    differ = [f"{len(names)} {what}: {', '.join(names[:4])}" for what, names in found.items() if names]
    if differ:
        raise UsageError(f"{option}: {path} does not fit {type(network).__name__}: {'; '.join(differ)}")
    network.load_state_dict(state, strict=False)
