"""Metrics of a test that can be computed for any multiset of its samples, for the bootstrap."""

from dataclasses import dataclass

import numpy as np

from darkroom.report.compare.bootstrap import Statistic, mean_statistic
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
    column, name = {
        "segmentation": ("mIoU", "mIoU of an image"),
        "captions": ("right", "right samples"),
        "autoencoding": ("error", "squared error"),
    }.get(task, ("", ""))
    if column in samples:
        return SampleMetric(name, mean_statistic(numbers(samples[column])), count)
    return None
