"""Compare a checkpoint with the config that is about to use it."""

import json
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.safe_load import read_safely, require_whole

# Arguments whose state is in the checkpoint, which would override the config.
_FITTED_ARGUMENTS = tuple(
    f"optim.{name}" for name in ("optimizer", "generator_optimizer", "discriminator_optimizer", "lr_scheduler")
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


def check_checkpoint(path: Path, model: nn.Module, arguments: Namespace, resuming: bool) -> None:
    """Raise a UsageError if class, weights or, for a fit, optimizer and schedule of a checkpoint differ from the config.

    Args:
        path: file of the checkpoint.
        model: built from the config.
        arguments: arguments of the model in the config.
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
    _compare_weights(path, state, model.state_dict())
    if resuming:
        _compare_arguments(path, saved, arguments)


def _compare_class(path: Path, saved: str, configured: str) -> None:
    saved = saved.rsplit(".", 1)[-1]
    if saved != configured:
        raise UsageError(
            f"ckpt_path {path} holds a {saved}, but the config has {configured}; use the config.yaml of its run"
        )


def _compare_weights(path: Path, saved: dict[str, Any], built: dict[str, Any]) -> None:
    for name in [*(built.keys() ^ saved.keys()), *built]:
        here, there = (_shape(state[name]) if name in state else "missing" for state in (built, saved))
        if here != there:
            raise UsageError(
                f"ckpt_path {path} does not fit the model: {name} is {there} in the file and {here} in the model; "
                "use the config.yaml of its run"
            )


def _compare_arguments(path: Path, saved: dict[str, Any], arguments: Namespace) -> None:
    for name in _FITTED_ARGUMENTS:
        group, key = name.split(".")
        options = [values.get(group) or {} for values in (arguments.as_dict(), saved)]
        here, there = (json.dumps(values.get(key), sort_keys=True, default=str) for values in options)
        if key in options[1] and here != there:
            raise UsageError(
                f"ckpt_path {path} was trained with model.{name} {there}, but the config has {here}; a resumed fit must "
                "have the same: make them agree, or start from scratch with the weights (model.pretrained)"
            )


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
