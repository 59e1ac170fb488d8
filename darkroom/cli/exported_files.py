"""Command line of ``darkroom predict`` with an exported file instead of a checkpoint."""

import json
from pathlib import Path

from darkroom.errors import DataError, UsageError
from darkroom.export.description import Description
from darkroom.export.formats.files import SUFFIXES

MODEL = "darkroom.export.model.ExportedModel"
GENERATOR = "darkroom.export.generative.model.ExportedGenerator"
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
        UsageError: the file enlarges images.
    """
    if not path.is_file():
        raise DataError(f"ckpt_path {path} does not exist; write it by `darkroom export --ckpt_path CHECKPOINT`")
    beside, config = path.with_suffix(".json"), path.parent.parent / "config.yaml"
    text = beside.read_text(encoding="utf-8") if beside.is_file() else None
    part = "" if text is None else Description.from_json(text, beside).part
    model = ["--model", GENERATOR if part else MODEL, "--model.path", str(path)]
    if configured:
        return [], model
    if part and path.with_name(path.name.replace(f".{part}.", ".upsampler.")).is_file():
        raise UsageError(
            f"ckpt_path {path} enlarges images, which the sampler of docs/methods/diffusion.md does; or predict with the "
            "checkpoint"
        )
    if part and part not in ("encoder", "decoder"):  # loggers of the run's config read more than the files have
        return ["--data", "Prompts", "--trainer.callbacks+=SampleWriter"], model
    if path.parent.name == "export" and config.is_file():
        return ["--config", str(config)], model
    if part:
        return ["--data", "Prompts", "--trainer.callbacks+=SampleWriter"], model
    description = Description.from_json(text, beside)
    data = {"class_names": list(description.class_names), "channels": description.inputs[0].shape[1]}
    options = [word for name, value in data.items() for word in (f"--data.{name}", json.dumps(value))]
    photos = ["--data", "darkroom.export.photos.Photos", *options]
    return [*photos, f"--trainer.callbacks+={WRITERS[description.task]}"], model
