"""Load a checkpoint for export: the model, and what its record says of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc import locate
from typing import Any

import torch

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.utils.arguments import declared_names
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.lightning_modules.utils.safe_load import read_safely, require_whole
from darkroom.protocols.export import ExportableModel, ExportableParts


@dataclass(frozen=True)
class TrainedMethod:
    """Model of a checkpoint, in float32 and evaluation mode.

    Args:
        model: with the weights of the checkpoint.
        exportable: the same object, as export uses it.
        normalization: mean and standard deviation of the training data.
        class_names: of the training data, in the order of their ids.
        step: optimizer steps of the training.
        path: file of the checkpoint.
    """

    model: Technique
    exportable: ExportableModel | ExportableParts
    normalization: Statistics
    class_names: Sequence[str]
    step: int
    path: Path


def load_trained(path: Path, options: Mapping[str, Any] | None = None) -> TrainedMethod:
    """Load the model of a checkpoint of the command line, on the CPU.

    Args:
        path: of the checkpoint.
        options: values of arguments that may differ from those of the training, by name; of groups such as ``inference``
            a mapping of the options that change.

    Raises:
        UsageError: the file is missing, damaged or of another kind, its method cannot be exported, or an option is invalid.
    """
    checkpoint = read_safely("ckpt_path", path, mmap=True)
    require_whole("ckpt_path", path)
    arguments = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    class_path = arguments.get("_class_path") if isinstance(arguments, dict) else None
    if not isinstance(arguments, dict) or not isinstance(class_path, str):
        raise UsageError(f"ckpt_path {path} must be a checkpoint of `darkroom fit`; it names no method")
    kind = locate(class_path)
    if not (isinstance(kind, type) and issubclass(kind, Technique)):
        raise UsageError(
            f"ckpt_path {path} was trained as {class_path}, which cannot be imported; run the command in the folder of the "
            "class, or install its package"
        )
    try:
        changed = merge_options(kind, arguments, options or {})
        model = kind.load_from_checkpoint(path, map_location="cpu", weights_only=True, **changed).float().eval()
    except UsageError:
        raise
    except Exception as error:  # the constructor of any class may fail
        raise UsageError(f"ckpt_path {path} cannot be loaded as {kind.__name__} ({error})") from error
    if not isinstance(model, ExportableModel | ExportableParts):
        raise UsageError(f"ckpt_path {path}: {kind.__name__} cannot be exported; see docs/guides/export.md")
    model.memory_format = torch.contiguous_format  # a file has no layout in memory
    return TrainedMethod(
        model=model,
        exportable=model,
        normalization=_normalization(path, checkpoint),
        class_names=checkpoint.get("class_names") or (),
        step=checkpoint.get("global_step", 0),
        path=path,
    )


def merge_options(kind: type[Technique], saved: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with the options that change; those of a group replace single options of the saved group."""
    free = declared_names(kind, "free_arguments")
    merged = {}
    for name, value in options.items():
        if name not in free or name == "optim":
            known = ", ".join(one for one in free if one != "optim") or "none"
            raise UsageError(f"model.{name} must be as in the training; options that may differ: {known}")
        group = saved.get(name)
        merged[name] = {**group, **value} if isinstance(group, Mapping) and isinstance(value, Mapping) else value
    return merged


def _normalization(path: Path, checkpoint: dict[str, Any]) -> Statistics:
    found = checkpoint.get("normalization")
    if found is None:
        raise UsageError(
            f"ckpt_path {path} has no record of the normalization of its data, which fits since version 0.3 write; resume "
            "the fit for one step to add it"
        )
    return found[0], found[1]
