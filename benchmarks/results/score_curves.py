"""Plot a metric of several fits: ``python -m benchmarks.results.score_curves RUN [RUN ...] --names NAME ... --out FILE``.

A RUN is the folder of a fit; its metrics.csv has the metric after every validation. The command writes FILE as PNG, and PDF
and SVG beside it.
"""

import argparse
import csv
from pathlib import Path

import torch
from torch import Tensor

from darkroom.callbacks.plotting.curves import curves


def curve(run: Path, score: str) -> Tensor:
    """Return the steps and values of a metric in a run, float64 (N, 2).

    Raises:
        SystemExit: the run has no metrics.csv, or never logged the metric.
    """
    path = run / "metrics.csv"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist; RUN must be the folder of a fit, such as runs/dcgan/0")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if row.get(score)]
        if not rows:
            known = [name for name in reader.fieldnames or () if name.startswith("val/")]
            raise SystemExit(f"{path} has no {score}; --score must be one of {', '.join(known)}")
    return torch.tensor([[int(row["step"]) + 1, float(row[score])] for row in rows], dtype=torch.float64)


def main(argv: list[str] | None = None) -> None:
    """Draw the chart and print its values."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.score_curves", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", required=True)
    parser.add_argument("--score", default="val/cnn_fid")
    parser.add_argument("--scale", choices=["log", "linear"], default="log", help="axis of the metric")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if len(arguments.names) != len(arguments.runs):
        parser.error(f"--names must be one per run, got {len(arguments.names)} for {len(arguments.runs)} runs")
    series = [curve(run, arguments.score) for run in arguments.runs]
    for name, points in zip(arguments.names, series, strict=True):
        print(name, *(f"{step:.0f}: {value:.4g}" for step, value in points.tolist()), sep="; ")
    axes, log = ("training steps", arguments.score), arguments.scale == "log"
    curves(series, arguments.names, axes=axes, log_y=log).save(arguments.out.with_suffix(""))


if __name__ == "__main__":
    main()
