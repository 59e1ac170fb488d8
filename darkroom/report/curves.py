"""Curves of training: losses, metrics, learning rate and throughput by step."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from darkroom.callbacks.plotting.curves import curves
from darkroom.report.markup import Html, paragraph
from darkroom.report.outputs import Outputs, figures
from darkroom.report.run import Point, Run

_MOST_POINTS = 400  # of a curve; more are averaged
_MOST_SERIES = 12  # curves in one plot
_MOST_PLOTS = 14
_THROUGHPUT = "images_per_second"
_LABELS = {_THROUGHPUT: "images per second", "lr": "learning rate"}


def plot_curves(run: Run, outputs: Outputs) -> list[Html]:
    """Plot all metrics of a fit by step, training and validation together; those of classes share a plot."""
    groups = group_metrics(run.metrics, run.monitor)
    plots = []
    for name, series in list(groups.items())[:_MOST_PLOTS]:
        label = _LABELS.get(name) or name.removesuffix("/class").replace("_", " ")
        points = [_to_points(run.metrics[metric]) for metric in series]
        plot = curves(
            [thin(some) for some in points],
            [_series_name(metric, name) for metric in series],
            axes=("training step", label),
            width=outputs.width,
        )
        of_class = " of each class" if name.endswith("/class") else ""
        caption = f"{label}{of_class} by training step{_averaged(points)}."
        plots.append(outputs.plot(plot, f"curve-{name.replace('/', '-')}", caption))
    blocks = [figures(*plots)] if plots else [paragraph("No metrics of a fit were logged.", class_="note")]
    rest = list(groups)[_MOST_PLOTS:]
    if rest:
        blocks.append(paragraph(f"Not plotted, but in metrics.csv: {', '.join(rest)}.", class_="note"))
    return blocks


def group_metrics(metrics: Mapping[str, Sequence[Point]], monitor: str | None) -> dict[str, list[str]]:
    """Return the metrics of each plot: the losses, the main metric, other metrics, those of classes, then the rest.

    Metrics of the test and metrics of more than 12 classes are left out.
    """
    found: dict[str, list[str]] = {}
    for metric in metrics:
        stage, _, rest = metric.partition("/")
        if metric.startswith("lr-"):
            found.setdefault("lr", []).append(metric)
        elif rest and stage in ("train", "val"):
            # val/IoU/circle belongs to the plot of IoU by class, val/IoU to its own.
            family, _, one = rest.rpartition("/")
            found.setdefault(f"{family}/class" if one and family else rest, []).append(metric)
    main = (monitor or "").partition("/")[2]

    def rank(name: str) -> tuple[int, str]:
        first = {"loss": 0, main: 1, "lr": 8, _THROUGHPUT: 9}
        return first.get(name, 7 if name.endswith("/class") else 3 if "loss" in name else 2), name

    return {name: found[name] for name in sorted(found, key=rank) if len(found[name]) <= _MOST_SERIES}


def _series_name(metric: str, group: str) -> str:
    stage, _, rest = metric.partition("/")
    if group == "lr":
        return metric.removeprefix("lr-")
    names = {"train": "training", "val": "validation"}
    if group.endswith("/class"):
        return rest.rpartition("/")[2] if stage == "val" else f"{rest.rpartition('/')[2]} (training)"
    return names[stage]


def _to_points(series: Iterable[Point]) -> np.ndarray:
    return np.array([(point.step, point.value) for point in series], dtype=np.float64).reshape(-1, 2)


def thin(points: np.ndarray, most: int = _MOST_POINTS) -> np.ndarray:
    """Average neighbouring points (N, 2), so that at most ``most`` remain; points that are not finite are left out."""
    points = points[np.isfinite(points).all(1)]
    if len(points) <= most:
        return points
    blocks = np.array_split(points, most)
    return np.array([block.mean(0) for block in blocks])


def _averaged(points: Sequence[np.ndarray]) -> str:
    longest = max(map(len, points), default=0)
    return f", {-(-longest // _MOST_POINTS)} neighbouring values averaged" if longest > _MOST_POINTS else ""
