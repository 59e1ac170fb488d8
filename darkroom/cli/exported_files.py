"""Command line of ``darkroom predict`` with an exported file instead of a checkpoint."""

import json
from pathlib import Path

from darkroom.errors import DataError
from darkroom.export.description import Description
from darkroom.export.formats.files import SUFFIXES

WRITERS = {
    "segmentation": "PredictionWriter",
    "classification": "ClassificationWriter",
    "detection": "DetectionWriter",
}


def is_exported(path: str) -> bool:
    """Return True if a path has the suffix of an exported graph."""
    return Path(path).suffix in (SUFFIXES["onnx"], SUFFIXES["torch_export"])


def exported_arguments(path: Path, configured: bool) -> tuple[list[str], list[str]]:
    """Return the options that run an exported file: those before the options that are typed, and those after.

    Args:
        path: of the file.
        configured: True if the command line has a config, from which data and callbacks are taken; else they are those of
            the run in whose folder ``export`` the file lies, or what the description of the file says.

    Raises:
        DataError: the file is missing, or its description is.
    """
    if not path.is_file():
        raise DataError(f"ckpt_path {path} does not exist; write it by `darkroom export --ckpt_path CHECKPOINT`")
    model = ["--model", "darkroom.export.model.ExportedModel", "--model.path", str(path)]
    config = path.parent.parent / "config.yaml"
    if configured:
        return [], model
    if path.parent.name == "export" and config.is_file():
        return ["--config", str(config)], model
    beside = path.with_suffix(".json")
    description = Description.from_json(beside.read_text(encoding="utf-8") if beside.is_file() else None, beside)
    data = {"class_names": list(description.class_names), "channels": description.inputs[0].shape[1]}
    options = [word for name, value in data.items() for word in (f"--data.{name}", json.dumps(value))]
    writer = WRITERS[description.task]
    return ["--data", "darkroom.export.photos.Photos", *options, f"--trainer.callbacks+={writer}"], model
