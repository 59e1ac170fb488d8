"""Metric of an exported graph on the validation set, to compare precisions."""

from collections.abc import Mapping
from typing import Any

from torchmetrics import Metric

from darkroom.datamodules.base import VisionDataModule
from darkroom.errors import UsageError
from darkroom.export.check import as_arrays
from darkroom.export.outputs import TASKS
from darkroom.export.runners import Runner
from darkroom.export.samples import graph_inputs, labelled_batches
from darkroom.export.tiles import run_whole
from darkroom.lightning_modules.classification.metrics import ClassificationScores
from darkroom.lightning_modules.detection.metrics import COCOScores
from darkroom.lightning_modules.segmentation.metrics import SegmentationScores
from darkroom.protocols.export import ExportGraph

# The metric of a task that is compared, and the entry of a batch with its truth.
_HEADLINES = {"segmentation": ("mIoU", "mask"), "classification": ("accuracy", "label"), "detection": ("mAP", "target")}


def _build(task: str, classes: int, masks: bool) -> Metric:
    if task == "segmentation":
        return SegmentationScores(classes)
    if task == "classification":
        return ClassificationScores(classes)
    return COCOScores(classes, masks=masks)


def headline_metric(run: Runner, graph: ExportGraph, data: VisionDataModule) -> tuple[str, float]:
    """Compute the metric of a graph on the validation set; return its name and its value.

    Args:
        run: exported graph.
        graph: that was exported, for its inputs.
        data: with labels.

    Raises:
        UsageError: the task has no metric, or the data have no labels.
    """
    description = run.description
    if description.task not in _HEADLINES:
        raise UsageError(f"half and int8 must be used with {', '.join(_HEADLINES)}, got {description.task}")
    name, truth = _HEADLINES[description.task]
    task = TASKS[description.task]
    metric = _build(description.task, data.num_classes, any(spec.name == "masks" for spec in graph.outputs))
    for batch in labelled_batches(data):
        outputs = run_whole(run, as_arrays(graph, graph_inputs(graph, batch)))
        metric.update(task.to_prediction(outputs, 1), _truth(batch, truth))
    return name, float(metric.compute()[name])


def _truth(batch: Mapping[str, Any], name: str) -> Any:
    if name not in batch:
        raise UsageError(f"half and int8 compare a metric, but the validation set has no {name}; use labelled data")
    return batch[name].long() if name == "mask" else batch[name]
