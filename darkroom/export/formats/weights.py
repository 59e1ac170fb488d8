"""Weights as safetensors: the tensors of a checkpoint's model, with its class and arguments as metadata."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darkroom.errors import DataError, UsageError
from darkroom.export.checkpoint import TrainedMethod
from darkroom.export.description import KEY
from darkroom.lightning_modules.utils.arguments import is_plain
from darkroom.paths import install_command

CONFIG = "config"  # key of the metadata: class path and arguments as JSON
_NETWORK = "network."


def write_weights(trained: TrainedMethod, path: Path) -> int:
    """Write the weights and the arguments of a method; return the number of tensors.

    The prefix ``network.`` of the names is left out, so that they are those of the network's class.

    Args:
        trained: method of a checkpoint.
        path: of the file.

    Raises:
        UsageError: the package safetensors is missing.
        DataError: the file does not hold the weights that were written.
    """
    try:
        from safetensors.torch import load_file, save_file
    except ImportError:
        raise UsageError(
            f"format safetensors needs the package safetensors: {install_command('export')}, or use --format torch_export"
        ) from None
    state = trained.model.state_dict()
    tensors = {name.removeprefix(_NETWORK): value.detach().clone().contiguous() for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    save_file(tensors, part, {CONFIG: json.dumps(config_of(trained)), KEY: json.dumps(_meaning(trained))})
    if not _equal(load_file(part), tensors):
        part.unlink()
        raise DataError(f"{path} cannot be written: the tensors read back differ; check the disk")
    path.with_suffix(".json").write_text(json.dumps(config_of(trained), indent=1) + "\n", encoding="utf-8")
    shutil.move(part, path)
    return len(tensors)


def config_of(trained: TrainedMethod) -> dict[str, Any]:
    """Return class path and arguments of a method, as in a config."""
    arguments = {name: value for name, value in trained.model.hparams.items() if not name.startswith("_")}
    kind = type(trained.model)
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": {name: value for name, value in arguments.items() if is_plain(value)},
    }


def _meaning(trained: TrainedMethod) -> dict[str, Any]:
    mean, std = trained.normalization
    return {
        "class_names": list(trained.class_names),
        "normalization": {"mean": list(mean), "std": list(std)},
        "step": trained.step,
    }


def _equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
