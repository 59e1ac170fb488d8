"""Plot a metric of several fits: ``python -m benchmarks.results.score_curves RUN [RUN ...] --names NAME ... --out FILE``.

A RUN is the folder of a fit; its metrics.csv has the metric after every validation.
"""

import argparse
import csv
from pathlib import Path

from benchmarks.results.pyplot import import_pyplot

COLOURS = ("#3f6fd8", "#d8453e", "#4b9e5f", "#c78a1b")
LINES = ("o-", "s--", "^:", "d-.")


def curve(run: Path, score: str) -> tuple[list[int], list[float]]:
    """Return the steps and values of a metric in a run.

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
    return [int(row["step"]) + 1 for row in rows], [float(row[score]) for row in rows]


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
    curves = {name: curve(run, arguments.score) for name, run in zip(arguments.names, arguments.runs, strict=True)}
    plt = import_pyplot()
    figure, axes = plt.subplots(figsize=(7.2, 3.6), dpi=120)
    for index, (name, (steps, values)) in enumerate(curves.items()):
        style = LINES[index // len(COLOURS) % len(LINES)]  # beyond the palette, another kind of line
        axes.plot(steps, values, style, color=COLOURS[index % len(COLOURS)], label=name, markersize=4)
        print(name, *(f"{step}: {value:.4g}" for step, value in zip(steps, values, strict=True)), sep="; ")
    axes.set_yscale(arguments.scale)
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
