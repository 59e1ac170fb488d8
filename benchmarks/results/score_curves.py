"""Plot a metric of several fits: ``python -m benchmarks.results.score_curves RUN [RUN ...] --names NAME ... --out FILE``.

A RUN is the folder of a fit; its metrics.csv has the metric after every validation.
"""

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

COLOURS = ("#3f6fd8", "#d8453e", "#4b9e5f", "#c78a1b")


def curve(run: Path, score: str) -> tuple[list[int], list[float]]:
    """Return the steps and values of a metric in a run."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(score)]
    return [int(row["step"]) + 1 for row in rows], [float(row[score]) for row in rows]


def main() -> None:
    """Draw the chart and print its values."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.score_curves", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", required=True)
    parser.add_argument("--score", default="val/cnn_fid")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    figure, axes = plt.subplots(figsize=(7.2, 3.6), dpi=120)
    for name, run, colour in zip(arguments.names, arguments.runs, COLOURS, strict=False):
        steps, values = curve(run, arguments.score)
        axes.plot(steps, values, "o-", color=colour, label=name, markersize=4)
        print(name, *(f"{step}: {value:.1f}" for step, value in zip(steps, values, strict=True)), sep="; ")
    axes.set_yscale("log")
    axes.set_xlabel("training steps")
    axes.set_ylabel(arguments.score)
    axes.grid(color="#e6e6e6", which="both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(arguments.out)


if __name__ == "__main__":
    main()
