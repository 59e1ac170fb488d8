"""Loading of initial weights from a file: a published state dict, or a checkpoint of Darkroom."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.safe_load import read_safely


def load_weights(network: nn.Module, path: Path, option: str, new: Sequence[str] = ()) -> None:
    """Load a network's weights; those whose names start with one of ``new`` may be missing, or differ in shape.

    Args:
        network: receives the weights.
        path: state dict, plain or in a Lightning checkpoint of ours. Files that would run code raise.
        option: key that is set to this file, for the message.
        new: prefixes of parameters that need not be in the file, or not in this shape.

    Raises:
        UsageError: the file cannot be read, or keys differ; names them.
    """
    if not path.is_file():
        raise UsageError(f"{option}: {path} does not exist; set it to a file with the network's state dict")
    state = read_safely(f"{option}:", path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = {k.removeprefix("network."): v for k, v in state["state_dict"].items() if k.startswith("network.")}
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UsageError(f"{option}: {path} must hold a state dict, got a {type(state).__name__}")
    # Published checkpoints of the widely used U-Net include the grey values of their masks.
    state.pop("mask_values", None)
    ours, new = network.state_dict(), tuple(new)
    there = {name: tuple(value.shape) if isinstance(value, Tensor) else () for name, value in state.items()}
    other = [name for name, value in ours.items() if name in there and there[name] != tuple(value.shape)]
    state = {name: value for name, value in state.items() if not (name in other and name.startswith(new))}
    found = {
        "missing in the file": [name for name in ours if name not in there and not name.startswith(new)],
        "unknown to the network": [name for name in there if name not in ours],
        "of another shape": [
            f"{name} ({there[name]} in the file, {tuple(ours[name].shape)} in the network)"
            for name in other
            if not name.startswith(new)
        ],
    }
    differ = [f"{len(names)} {what}: {', '.join(names[:4])}" for what, names in found.items() if names]
    if differ:
        raise UsageError(f"{option}: {path} does not fit {type(network).__name__}: {'; '.join(differ)}")
    network.load_state_dict(state, strict=False)
