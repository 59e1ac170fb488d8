"""Contents of the pages of autoencoders, GANs and diffusion models."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from darkroom.datamodules.base import VisionDataModule
from darkroom.errors import UsageError
from darkroom.export.checkpoint import TrainedMethod
from darkroom.export.write import Written, write_method
from darkroom.lightning_modules.diffusion.base import Diffusion
from darkroom.lightning_modules.diffusion.imagen.text_to_image import TextToImage
from darkroom.lightning_modules.diffusion.sampling.sampler_config import SamplerName, Sampling
from darkroom.lightning_modules.diffusion.sampling.table import Evaluation, tabulate
from darkroom.lightning_modules.generation.base import Generative
from darkroom.play.attention import WordMaps
from darkroom.play.examples import as_data, read_examples
from darkroom.play.perception import Graphs, describe

_STEPS = (2, 5, 10, 20, 50, 100, 200)  # of the slider
_SAMPLERS: tuple[SamplerName, ...] = ("ddim", "ancestral", "dpm_solver++", "heun", "flow_heun")


def generation(trained: TrainedMethod, data: VisionDataModule, folder: Path) -> tuple[dict[str, Any], Graphs]:
    """Export the parts of a method for its page, and return the page's data.

    Args:
        trained: autoencoder, GAN or diffusion model.
        data: of its run.
        folder: for the graphs.

    Raises:
        UsageError: the method samples from small images or from the text of a frozen encoder, which have no page.
    """
    model = trained.model
    assert isinstance(model, Generative)
    if isinstance(model, TextToImage):
        trained = replace(trained, exportable=WordMaps(model))
    parts = {one.description.part: one for one in write_method(trained, data, "onnx", folder / "model.onnx")}
    kind = _kind(trained, parts)
    names = trained.class_names or [str(index) for index in range(model.num_classes or 0)]
    content: dict[str, Any] = {
        "kind": kind,
        "classes": list(names),
        "image_shape": list(model.image_shape),
        "examples": [] if kind == "generator" else as_data(read_examples(data)),
        "graphs": {name: describe(one.description) for name, one in parts.items()},
    }
    if isinstance(model, Diffusion):
        content |= sampling_tables(model)
        content["graphs"]["denoiser"]["options"].pop("evaluations")
    return content, {name: one.path for name, one in parts.items()}


def _kind(trained: TrainedMethod, parts: Mapping[str, Written]) -> str:
    inputs = {spec.name for one in parts.values() for spec in one.description.inputs}
    if "low" not in inputs and ("text" not in inputs or "text" in parts):
        for part, kind in (("denoiser", "diffusion"), ("generator", "generator"), ("encoder", "autoencoder")):
            if part in parts:
                return kind
    raise UsageError(f"{type(trained.model).__name__} has no page; see docs/guides/playground.md")


def sampling_tables(model: Diffusion) -> dict[str, Any]:
    """Return the tables of samplers by name and number of steps at uniform times, and ``own``, that of ``predict``."""
    tables: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for name in _SAMPLERS:
        for steps in sorted({*_STEPS, model.sampling.steps or 0} - {0}):
            # All at the same times, which are whole where the network takes whole ones; other options are the model's.
            sampling = replace(model.sampling, sampler=name, steps=steps, spacing="uniform", shift=1.0, churn=0.0)
            if steps <= model.schedule.num_steps and (rows := _table(model, sampling)):
                tables.setdefault(name, {})[steps] = rows
    own = model.sampling.sampler
    counts = set.intersection(*(set(rows) for rows in tables.values()))
    return {
        "samplers": {
            name: {steps: tables[name][steps] for steps in sorted(counts)}
            for name in sorted(tables, key=lambda name: name != own)
        },
        "own": _table(model, model.sampling),
        "guidance": model.guidance,
    }


def _table(model: Diffusion, sampling: Sampling) -> list[dict[str, Any]]:
    """Return the evaluations of a sampler; [] if it is not defined for the model. ``guided``: guidance is active."""
    try:
        rows = tabulate(sampling, model.schedule, model.parameterization, guidance=2.0)
    except UsageError:
        return []
    return [_as_data(row) for row in rows]


def _as_data(row: Evaluation) -> dict[str, Any]:
    values = asdict(row)
    return values | {"guided": values.pop("guidance") != 1}
