"""Stages: trained models out of their checkpoints, ready to draw."""

from pathlib import Path
from pydoc import locate
from typing import TypeVar

import torch

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.base import Diffusion
from darkroom.lightning_modules.utils.safe_load import read_safely

Stage = TypeVar("Stage", bound=Diffusion)


def trained_stage(checkpoint: str | Stage, kind: type[Stage], key: str) -> Stage:
    """A stage that draws: in eval mode, its averages in the place of its weights, without gradients.

    Args:
        checkpoint: file of a run of the command line; or, in Python, the model itself, which is changed.
        kind: what it should be.
        key: names the setting that says so, such as ``model.base``.

    Raises:
        UsageError: no such file, no checkpoint, or one of another technique.
    """
    stage = checkpoint if isinstance(checkpoint, torch.nn.Module) else _loaded(Path(checkpoint), kind, key)
    if not isinstance(stage, kind):
        raise UsageError(f"{key} is a {type(stage).__name__}; it should be a {kind.__name__}")
    return stage.only_averages().eval().requires_grad_(False)


def _loaded(path: Path, kind: type[Stage], key: str) -> Stage:
    if not path.is_file():
        raise UsageError(
            f"{key} is {path}, which does not exist; train a {kind.__name__} and give its checkpoints/best.ckpt"
        )
    checkpoint = read_safely(key, path, mmap=True)
    remembered = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
    if "_class_path" not in remembered:
        raise UsageError(
            f"{key} {path} was not written by the command line, so that nothing says how its network is built; in Python "
            f"give the {kind.__name__} itself"
        )
    trained = locate(remembered["_class_path"])
    if not (isinstance(trained, type) and issubclass(trained, kind)):
        name = remembered["_class_path"].rsplit(".", 1)[-1]
        raise UsageError(f"{key} {path} holds a {name}; it should be a {kind.__name__}'s")
    return trained.load_from_checkpoint(path, map_location="cpu", weights_only=True)
