"""Metrics of a test that can be computed for any multiset of its samples, for the bootstrap."""

from dataclasses import dataclass

import numpy as np

from darkroom.report.compare.bootstrap import Statistic, mean_statistic
from darkroom.report.tasks.matching import NONE, Found, match, read_found
from darkroom.runtime.results import Results
from darkroom.runtime.tables import numbers


@dataclass(frozen=True)
class SampleMetric:
    """Metric of a test as a statistic of its samples.

    Args:
        name: for the heading of the column.
        statistic: its value for weights of the samples.
        num_samples: number of test samples.
    """

    name: str
    statistic: Statistic
    num_samples: int


def sample_metric(results: Results) -> SampleMetric | None:
    """Return the metric of a task that is paired between methods; None if the results lack its columns."""
    samples = results.tables.get("samples", {})
    task, count = results.summary.task, results.summary.num_samples
    if task == "classification" and {"truth", "predicted"} <= samples.keys():
        right = np.array(samples["truth"]) == np.array(samples["predicted"])
        return SampleMetric("accuracy", mean_statistic(right.astype(np.float64)), count)
    if task == "detection" and {"truths", "detections"} <= results.tables.keys():
        return SampleMetric("AP50", average_precision_statistic(read_found(results)), count)
    column, name = {
        "segmentation": ("mIoU", "mIoU of an image"),
        "captions": ("right", "right samples"),
        "autoencoding": ("error", "squared error"),
    }.get(task, ("", ""))
    if column in samples:
        return SampleMetric(name, mean_statistic(numbers(samples[column])), count)
    return None


def average_precision_statistic(found: Found, iou: float = 0.5) -> Statistic:
    """Return the average precision as PASCAL VOC defines it since 2010 (area below the curve), averaged over classes.

    Detections are matched once; a set of samples only changes how often each of them counts.
    """
    matches = match(found, iou)
    counted = ~matches.ignored
    labels = np.unique(found.objects.label[~found.objects.ignored])

    def of_class(weights: np.ndarray, label: int) -> np.ndarray:
        chosen = np.flatnonzero(counted & (found.detections.label == label))
        chosen = chosen[np.argsort(-found.detections.scores[chosen], kind="stable")]
        times = weights[:, found.detections.sample[chosen]]
        right = times * (matches.object[chosen] != NONE)
        real = (found.objects.label == label) & ~found.objects.ignored
        objects = weights[:, found.objects.sample[real]].sum(1, keepdims=True)
        hits, seen = right.cumsum(1), times.cumsum(1)
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        steps = np.divide(right, objects, out=np.full_like(right, np.nan), where=objects > 0)
        return np.where(objects[:, 0] > 0, (envelope * steps).sum(1), np.nan)  # NaN for a set without the class

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.nanmean([of_class(weights, int(label)) for label in labels], axis=0)

    return statistic
