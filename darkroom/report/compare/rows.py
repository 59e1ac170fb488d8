"""Rows of the table of a comparison: metrics over seeds, paired differences, speed and memory."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from darkroom.errors import UsageError
from darkroom.report.compare.bootstrap import Difference, Resampled, average, paired_difference, resample
from darkroom.report.compare.groups import Group
from darkroom.report.compare.statistics import SampleMetric, sample_metric
from darkroom.report.run import Point, Run


@dataclass(frozen=True)
class Spread:
    """Mean of a value over seeds.

    Args:
        mean: of the finite values.
        deviation: sample standard deviation; None for one seed.
        count: number of seeds.
    """

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        """Format with three decimals: "0.912 ± 0.004"."""
        deviation = "" if self.deviation is None else f" ± {self.deviation:.3g}"
        return f"{self.mean:.4g}{deviation}"


def spread(values: Sequence[float | None]) -> Spread | None:
    """Compute the mean and the deviation of the values that are known and finite; None without any."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Spread(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Row:
    """Method in the table.

    Args:
        group: its runs.
        metrics: by name, in the order of the columns; None where no seed has a value.
        paired: name of the metric per sample; None without recorded samples.
        difference: to the first method, of that metric; None for the first and without recorded samples.
        cost: parameters, minutes of the fit, images per second, and memory in MiB; None where not recorded.
    """

    group: Group
    metrics: dict[str, Spread | None]
    paired: str | None
    difference: Difference | None
    cost: dict[str, Spread | None]


_COSTS: dict[str, Callable[[Run], float | None]] = {
    "parameters": lambda run: run.record.parameters if run.record else None,
    "minutes": lambda run: run.record.seconds / 60 if run.record else None,
    "training images/s": lambda run: _median(run.metrics.get("train/images_per_second", [])),
    "test images/s": lambda run: run.test_metrics.get("test/images_per_second"),
    "memory in MiB": lambda run: run.record.peak_memory_mib if run.record else None,
}


def _median(points: Sequence[Point]) -> float | None:
    values = [point.value for point in points if math.isfinite(point.value)]
    return float(np.median(values)) if values else None


def metrics_to_compare(groups: Sequence[Group], wanted: Sequence[str]) -> list[str]:
    """Return the names of the table's metrics: the wanted ones, or the main one and those without a class or a loss.

    Raises:
        UsageError: a wanted metric is in no run or has no finite value, or the main metric is not in all groups.
    """
    known = [
        {name for run in group.runs for name in run.metrics if _is_finite(value_of(run, name))} for group in groups
    ]
    for name in wanted:
        if not any(name in names for names in known):
            tested = sorted(name for name in set.union(*known) if name.startswith(("test/", "val/")))
            raise UsageError(f"--metrics {name} must be a metric of the runs: {', '.join(tested)}")
    if wanted:
        return list(dict.fromkeys(wanted))
    shared = set.intersection(*known)
    main = (groups[0].runs[0].monitor or "").partition("/")[2]
    stage = "test" if f"test/{main}" in shared else "val"
    if f"{stage}/{main}" not in shared:
        without = [group.name for group, names in zip(groups, known, strict=True) if f"{stage}/{main}" not in names]
        notes = " ".join(note for group in groups if group.name in without for run in group.runs for note in run.notes)
        raise UsageError(
            f"{', '.join(without)} must have a finite value of the main metric, test/{main} or val/{main}; test each run "
            f"with darkroom test --ckpt_path RUN/checkpoints/best.ckpt, or name other metrics with --metrics. {notes}"
        )
    others = [
        name
        for name in shared
        if name.startswith(f"{stage}/") and name.count("/") == 1 and not re.search("loss|images_per_second", name)
    ]
    return [f"{stage}/{main}", *sorted(set(others) - {f"{stage}/{main}"})]


def value_of(run: Run, name: str) -> float | None:
    """Return the value of a metric of a run: the newest of a test, the best epoch's of a validation; None without one."""
    points = run.metrics.get(name, [])
    if not points:
        return None
    if name.startswith("test/") or run.best is None:
        return points[-1].value
    return next((point.value for point in points if point.step == run.best.step), points[-1].value)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def make_rows(groups: Sequence[Group], metrics: Sequence[str]) -> list[Row]:
    """Compute the rows of the table, in the order of the groups."""
    resampled, rows = _resample(groups), []
    first = resampled[0][1]
    for group, (paired, own) in zip(groups, resampled, strict=True):
        difference = paired_difference(first, own) if first and own and group is not groups[0] else None
        values = {name: spread([value_of(run, name) for run in group.runs]) for name in metrics}
        cost = {name: spread([of(run) for run in group.runs]) for name, of in _COSTS.items()}
        rows.append(Row(group, values, paired, difference, cost))
    return rows


def _resample(groups: Sequence[Group]) -> list[tuple[str | None, Resampled | None]]:
    """Return name and values of the metric per sample of each group, on the samples that all groups have a score for."""
    metrics = [_metric_of(group) if len(groups) > 1 else None for group in groups]
    known = [metric.known for metric in metrics if metric is not None]
    used = np.logical_and.reduce(known) if known else np.empty(0)
    return [(metric.name, resample(metric.statistic, used)) if metric else (None, None) for metric in metrics]


def paired_metric(rows: Sequence[Row]) -> str | None:
    """Return the name of the metric of the paired differences; None if no row has one."""
    return next((row.paired for row in rows if row.difference), None)


def _metric_of(group: Group) -> SampleMetric | None:
    """Return the metric per sample, averaged over the seeds of a group; None if a run lacks it."""
    found = [sample_metric(run.results) for run in group.runs if run.results]
    known = [metric for metric in found if metric is not None]
    if not known or len(known) < len(group.runs):
        return None
    scored = np.logical_and.reduce([metric.known for metric in known])
    return SampleMetric(known[0].name, average([metric.statistic for metric in known]), scored)
