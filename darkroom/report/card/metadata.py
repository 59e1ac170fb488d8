"""Metadata of a model card: the YAML in front of it, which the Hugging Face hub reads."""

import math
from collections.abc import Mapping
from typing import Any

from darkroom.paths import DISTRIBUTION
from darkroom.report.card.contents import CardContents
from darkroom.runtime.records.results import Task

_OTHERS = ("images_per_second", "bad_samples")  # logged, but not metrics of a model
UNKNOWN_LICENSE = "unknown"  # the hub's identifier of a licence that is not stated
_PIPELINES = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
    "autoencoding": "image-feature-extraction",
    "adversarial": "unconditional-image-generation",
    "diffusion": "unconditional-image-generation",
}
_OF_TASK: Mapping[Task, str] = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
    "captions": "text-to-image",
    "autoencoding": "image-feature-extraction",
}


def pipeline_tag(contents: CardContents) -> str | None:
    """Return the hub's name of the task; None for a user's own method without test results."""
    if contents.family == "diffusion" and any(key.startswith("model.text.") for key in contents.run.options):
        return "text-to-image"
    if contents.family in _PIPELINES:
        return _PIPELINES[contents.family]
    return _OF_TASK.get(contents.run.results.summary.task) if contents.run.results else None


def metadata(contents: CardContents, license: str | None) -> dict[str, Any]:
    """Return the metadata of a card, without keys that have no value.

    Args:
        contents: of the run.
        license: identifier of the hub; None: not stated.
    """
    run, tag = contents.run, pipeline_tag(contents)
    found = {
        "license": license or UNKNOWN_LICENSE,
        "library_name": DISTRIBUTION,
        "pipeline_tag": tag,
        "tags": [tag for tag in ("darkroom", "lightning", contents.family, run.method) if tag],
        "datasets": [run.data] if run.data else [],
        "metrics": list(main_metrics(contents)),
        "model-index": _model_index(contents, tag),
    }
    return {key: value for key, value in found.items() if value}


def main_metrics(contents: CardContents) -> dict[str, float]:
    """Return the finite metrics of the test, else of validation, with six significant digits.

    Metrics of single classes, losses and speeds are left out, unless the loss is the main metric.
    """
    values, main = contents.tested or contents.validated, contents.main_metric
    return {
        name: float(f"{values[name]:.6g}")
        for name in contents.order(values)
        if math.isfinite(values[name]) and (name == main or not ("loss" in name or name in _OTHERS))
    }


def _model_index(contents: CardContents, tag: str | None) -> list[dict[str, Any]]:
    values = main_metrics(contents)
    if not values or not contents.run.data:
        return []
    tested = bool(contents.tested)
    samples = contents.test_samples if tested else contents.validation_samples
    split = "test" if tested else "validation"
    dataset: dict[str, Any] = {"name": contents.run.data, "type": contents.run.data, "split": split}
    if samples is not None:
        dataset["args"] = {"num_samples": samples}
    metrics = [{"type": name, "name": f"{split} {name}", "value": value} for name, value in values.items()]
    result = {"task": {"type": tag or "other"}, "dataset": dataset, "metrics": metrics}
    return [{"name": contents.run.name.replace("/", "-"), "results": [result]}]
