"""Compare a checkpoint with the config that is about to use it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from darkroom.cli.linking import config_traits
from darkroom.datamodules.base import VisionDataModule
from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.safe_load import read_safely, require_whole
from darkroom.protocols import NamedClasses
from darkroom.renames import with_todays_arguments

# Arguments whose state is in the checkpoint, which would override the config.
_FITTED_ARGUMENTS = tuple(
    f"optim.{name}"
    for name in (
        *("optimizer", "generator_optimizer", "discriminator_optimizer", "lr_scheduler", "lr_interval"),
        *("backbone_lr", "freeze_layers", "freeze_batch_norm"),
    )
)


def require_checkpoint(path: str | Path | None, given: str, experiment: Path) -> None:
    """Raise a UsageError for a ``ckpt_path`` without a file.

    Args:
        path: the file; None: none was found.
        given: ``ckpt_path`` as typed.
        experiment: folder in which ``last`` and ``best`` were looked for.
    """
    if path is None and not experiment.is_dir():
        raise UsageError(
            f"ckpt_path {given}: {experiment} does not exist; --experiment must name a folder of {experiment.parent}"
        )
    if path is None:
        raise UsageError(
            f"ckpt_path {given}: the newest run in {experiment} has no checkpoints/{given}.ckpt; leave it out to start "
            "from scratch, or give the file of an older run"
        )
    if not Path(path).is_file():
        raise UsageError(
            f"ckpt_path {given} does not exist; give a file, or last or best of the newest run in {experiment}"
        )


def check_checkpoint(path: Path, model: nn.Module, config: Namespace, data: VisionDataModule, resuming: bool) -> None:
    """Raise a UsageError if a checkpoint was trained as another model, or on data of another meaning, than the config has.

    Compared are the class, the weights, every argument except the ``free_arguments`` of the class, the order of the classes
    and the normalization of the data; for a fit that resumes, optimizer and schedule too.

    Args:
        path: file of the checkpoint.
        model: built from the config.
        config: ``class_path`` and ``init_args`` of the model.
        data: built from the config.
        resuming: True if a fit resumes from it.
    """
    checkpoint = read_safely("ckpt_path", path, mmap=True)
    require_whole("ckpt_path", path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise UsageError(f"ckpt_path {path} must be a checkpoint of a run; it has no state_dict")
    saved = checkpoint.get("hyper_parameters", {})
    if not isinstance(saved, dict) or not isinstance(saved.get("_class_path", ""), str):
        raise UsageError(
            f"ckpt_path {path} must be a checkpoint of a run; its hyper_parameters name no class and arguments"
        )
    _compare_class(path, saved.get("_class_path", type(model).__name__), type(model).__name__)
    arguments = config.init_args.as_dict()
    saved = with_todays_arguments(checkpoint, config.class_path)["hyper_parameters"]
    if resuming:
        _compare_optimization(path, saved, arguments)
    _compare_arguments(path, saved, arguments, config_traits(config.class_path).free_arguments)
    _compare_weights(path, state, model.state_dict())
    if data.image_shape is not None:  # not prompts
        _compare_data(path, checkpoint, data, labelled=arguments.get("num_classes") is not None)


def _compare_class(path: Path, saved: str, configured: str) -> None:
    saved = saved.rsplit(".", 1)[-1]
    if saved != configured:
        raise UsageError(
            f"ckpt_path {path} holds a {saved}, but the config has {configured}; use the config.yaml of its run"
        )


def _compare_weights(path: Path, saved: dict[str, Any], built: dict[str, Any]) -> None:
    # Frozen batch norms take the values of trained ones, and have no counter.
    extra = {name for name in saved.keys() - built.keys() if not name.endswith(".num_batches_tracked")}
    for name in [*extra, *built]:
        here, there = (_shape(state[name]) if name in state else "missing" for state in (built, saved))
        if here != there:
            raise UsageError(
                f"ckpt_path {path} does not fit the model: {name} is {there} in the file and {here} in the model; "
                "use the config.yaml of its run"
            )


def _compare_optimization(path: Path, saved: dict[str, Any], arguments: dict[str, Any]) -> None:
    for name in _FITTED_ARGUMENTS:
        group, key = name.split(".")
        options = [values.get(group) or {} for values in (arguments, saved)]
        here, there = (json.dumps(values.get(key), sort_keys=True, default=str) for values in options)
        if key in options[1] and here != there:
            raise UsageError(
                f"ckpt_path {path} was trained with model.{name} {there}, but the config has {here}; a resumed fit must "
                "have the same: make them agree, or start a new fit from the weights (model.init_from)"
            )


def _compare_arguments(path: Path, saved: Any, arguments: Any, free: Sequence[str], key: str = "") -> None:
    """Compare the values of all keys that both have, except free ones; keys of one alone are of another version."""
    if isinstance(saved, dict) and isinstance(arguments, dict):
        class_path = arguments.get("class_path")
        if isinstance(class_path, str):
            traits = config_traits(class_path)
            either = {name: (_argument(saved, name), _argument(arguments, name)) for name in traits.linked_arguments}
            may_differ = [*traits.initial_weight_arguments, *(name for name in either if None in either[name])]
            free = [*free, *(f"{key}.{name}" for name in may_differ)]
        for name in sorted(saved.keys() & arguments.keys()):
            inner = key if name == "init_args" else f"{key}.{name}".lstrip(".")
            if inner not in free:
                _compare_arguments(path, saved[name], arguments[name], free, inner)
    elif _plain(saved) != _plain(arguments):
        raise UsageError(
            f"ckpt_path {path} was trained with model.{key.removesuffix('.class_path')} {saved!r}, but the config has "
            f"{arguments!r}; make them agree, or leave out --config: a checkpoint file brings the config of its run"
        )


def _argument(part: dict[str, Any], name: str) -> Any:
    """Return an argument of a class in a config; None if it is left open."""
    return (part.get("init_args") or {}).get(name)


def _compare_data(path: Path, checkpoint: dict[str, Any], data: VisionDataModule, labelled: bool) -> None:
    names = checkpoint.get("class_names") or []
    here = list(data.class_names) if labelled and isinstance(data, NamedClasses) else []
    moved = [name for name in names if name in here and names.index(name) != here.index(name)]
    if moved:
        raise UsageError(
            f"ckpt_path {path} was trained on classes in the order {', '.join(names)}, but {type(data).__name__} has "
            f"{', '.join(here)}; set data.class_names to the order of the checkpoint"
        )
    if names and here and names != here:
        rank_zero_warn(
            f"ckpt_path {path} was trained on the classes {', '.join(names)}, and {type(data).__name__} has "
            f"{', '.join(here)}; they are taken as the same, in this order"
        )
    normalization = checkpoint.get("normalization")
    if normalization and not np.allclose(normalization, [data.mean, data.std]):
        mean, std = normalization
        raise UsageError(
            f"ckpt_path {path} was trained on images normalized with mean {mean} and std {std}, but the data have "
            f"{list(data.mean)} and {list(data.std)}; set data.mean and data.std to those of the checkpoint"
        )


def _plain(value: Any) -> str:
    """Return a value as text that is equal for equal values: tuples are lists, 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value)


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
