"""Metrics of a test that can be computed for any multiset of its samples, for the bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darkroom.report.compare.bootstrap import Statistic, mean_statistic
from darkroom.report.tasks.matching import NONE, Found, match, read_found
from darkroom.runtime.records.results import Results
from darkroom.runtime.records.tables import numbers

_MOST_CELLS = 2_000_000  # of a matrix of draws and detections; with more, draws are computed one part after another


@dataclass(frozen=True)
class SampleMetric:
    """Metric of a test as a statistic of its samples.

    Args:
        name: for the heading of the column.
        statistic: its value for weights of the samples.
        known: bool (N,), samples that have a score.
    """

    name: str
    statistic: Statistic
    known: np.ndarray


def sample_metric(results: Results) -> SampleMetric | None:
    """Return the metric of a task that is paired between methods; None if the results lack its columns."""
    samples, task = results.tables.get("samples", {}), results.summary.task
    if task == "classification" and {"truth", "predicted"} <= samples.keys():
        right = np.array(samples["truth"]) == np.array(samples["predicted"])
        return _mean_metric("accuracy", right.astype(np.float64))
    if task == "detection" and {"truths", "detections"} <= results.tables.keys() and "sample" in samples:
        numbered = numbers(samples["sample"]).astype(int)
        statistic = average_precision_statistic(read_found(results), numbered)
        return SampleMetric("AP50", statistic, np.ones(len(numbered), dtype=bool))
    column, name = {
        "segmentation": ("mIoU", "mIoU of an image"),
        "captions": ("right", "right samples"),
        "autoencoding": ("error", "squared error"),
    }.get(task, ("", ""))
    return _mean_metric(name, numbers(samples[column])) if column in samples else None


def _mean_metric(name: str, scores: np.ndarray) -> SampleMetric:
    return SampleMetric(name, mean_statistic(scores), np.isfinite(scores))


def average_precision_statistic(found: Found, samples: np.ndarray, iou: float = 0.5) -> Statistic:
    """Return the average precision as PASCAL VOC defines it since 2010 (area below the curve), averaged over classes.

    Detections are matched once; a set of samples only changes how often each of them counts. A set without any object
    has no value (NaN).

    Args:
        found: detections and objects.
        samples: int (N,), numbers of the test samples in ascending order, as weights refer to them.
        iou: threshold of a match.
    """
    matches = match(found, iou)
    real = ~found.objects.ignored
    detected, objects = (np.searchsorted(samples, which.sample) for which in (found.detections, found.objects))
    order = np.argsort(-found.detections.scores, kind="stable")
    order = order[~matches.ignored[order]]
    classes = []
    for label in np.unique(found.objects.label[real]):
        chosen = order[found.detections.label[order] == label]
        right = matches.object[chosen] != NONE
        classes.append((detected[chosen], right, objects[real & (found.objects.label == label)]))
    rows = max(1, _MOST_CELLS // max([1, *(len(chosen) for chosen, _, _ in classes)]))

    def statistic(weights: np.ndarray) -> np.ndarray:
        parts = [weights[start : start + rows] for start in range(0, len(weights), rows)]
        return np.concatenate([_mean_precision(part, classes) for part in parts])

    return statistic


def _mean_precision(weights: np.ndarray, classes: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the mean of the average precisions of the classes that a set contains, float (draws,)."""
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for detected, right, objects in classes:
        number = weights[:, objects].sum(1)
        total += np.where(number > 0, _area(weights[:, detected], right) / np.maximum(number, 1), 0)
        count += number > 0
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _area(times: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the area below precision by the number of found objects, float (draws,).

    Args:
        times: float (draws, M), how often each detection counts, in the order of descending scores.
        right: bool (M,), detections of an object.
    """
    found = times * right
    hits, seen = found.cumsum(1), times.cumsum(1)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    return (envelope * found).sum(1)
