"""Loading of the trained models of a cascade."""

from pathlib import Path
from pydoc import locate
from typing import TypeVar

from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.base import Diffusion
from darkroom.lightning_modules.utils.safe_load import read_safely

Stage = TypeVar("Stage", bound=Diffusion)


def load_stage(checkpoint: str | nn.Module, kind: type[Stage], key: str) -> Stage:
    """Load a model for sampling: in eval mode, without gradients, with its EMA weights.

    Args:
        checkpoint: file of a run of the command line; or, in Python, the model itself, which is modified.
        kind: class that the model must have.
        key: setting that error messages name, such as ``model.base``.

    Raises:
        UsageError: the file is missing, is not a checkpoint, or holds a model of another class.
    """
    stage = checkpoint if isinstance(checkpoint, nn.Module) else _read(Path(checkpoint), kind, key)
    if not isinstance(stage, kind):
        raise UsageError(f"{key} must be a {kind.__name__}, got a {type(stage).__name__}")
    return stage.keep_ema_only().eval().requires_grad_(False)


def _read(path: Path, kind: type[Stage], key: str) -> Stage:
    if not path.is_file():
        raise UsageError(
            f"{key} is {path}, which does not exist; train a {kind.__name__} and give its checkpoints/best.ckpt"
        )
    checkpoint = read_safely(key, path, mmap=True)
    arguments = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
    if "_class_path" not in arguments:
        raise UsageError(
            f"{key} {path} was not written by the command line, so it does not state how its network is built; in Python "
            f"give the {kind.__name__} itself"
        )
    trained = locate(arguments["_class_path"])
    if not (isinstance(trained, type) and issubclass(trained, kind)):
        name = arguments["_class_path"].rsplit(".", 1)[-1]
        raise UsageError(f"{key} {path} must hold a {kind.__name__}, but holds a {name}")
    return trained.load_from_checkpoint(path, map_location="cpu", weights_only=True)
