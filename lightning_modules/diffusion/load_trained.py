"""Loading of trained models that are parts of another one."""

from pathlib import Path
from pydoc import locate
from typing import TypeVar

from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.utils.safe_load import read_safely

Model = TypeVar("Model", bound=Technique)


def load_trained(checkpoint: str | nn.Module, kind: type[Model], key: str, remedy: str = "") -> Model:
    """Return a trained model on the CPU; a module is returned as it is.

    Args:
        checkpoint: file of a run of the command line; or, in Python, the model itself.
        kind: class that the model must have.
        key: setting that error messages name, such as ``model.base``.
        remedy: end of the message on a missing file, such as how to work without the model.

    Raises:
        UsageError: the file is missing, is not a checkpoint, or holds a model of another class.
    """
    model = checkpoint if isinstance(checkpoint, nn.Module) else _read(Path(checkpoint), kind, key, remedy)
    if not isinstance(model, kind):
        raise UsageError(f"{key} must be a {kind.__name__}, got a {type(model).__name__}")
    return model


def _read(path: Path, kind: type[Model], key: str, remedy: str) -> Model:
    if not path.is_file():
        raise UsageError(
            f"{key} is {path}, which does not exist; train a {kind.__name__} and give its checkpoints/best.ckpt{remedy}"
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
