"""``darkroom runs``: the runs of a folder, newest first, as aligned columns or as JSON."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from darkroom.errors import UserError
from darkroom.report.run import Run, find_runs, last_sign, read_run

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Row:
    """Line of the list.

    Args:
        run: folder.
        method, data: classes.
        metric: main metric, that of the test if the run was tested; empty without a value.
        value: of the metric, the best one in validation; None without a value.
        epochs, max_epochs: finished ones, and those of the config; None: no limit.
        state: of the fit.
        size: of all files, in bytes.
        changed: time of the last change, ISO 8601.
        notes: on what is missing or damaged.
    """

    run: str
    method: str
    data: str
    metric: str
    value: float | None
    epochs: int
    max_epochs: int | None
    state: str
    size: int
    changed: str
    notes: list[str]


def make_row(run: Run) -> Row:
    """Summarize a run."""
    metric, value = run.main_value
    changed = datetime.fromtimestamp(last_sign(run.folder), timezone.utc).isoformat(timespec="seconds")
    return Row(
        str(run.folder),
        run.method,
        run.data,
        metric,
        value,
        run.epochs,
        run.max_epochs,
        run.state,
        run.size,
        changed,
        run.notes,
    )


def format_size(size: float) -> str:
    """Format a number of bytes with three digits: "1.25 MiB"."""
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} {_UNITS[-1]}"


def format_rows(rows: Sequence[Row]) -> str:
    """Format the list with aligned columns."""
    cells = [("run", "method", "data", "metric", "epochs", "state", "size")]
    for row in rows:
        metric = "" if row.value is None else f"{row.metric} {row.value:.4g}"
        epochs = f"{row.epochs}" if row.max_epochs is None else f"{row.epochs}/{row.max_epochs}"
        cells.append((row.run, row.method, row.data, metric, epochs, row.state, format_size(row.size)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def main(argv: list[str]) -> int:
    """List the runs of a folder; return the exit code."""
    parser = argparse.ArgumentParser("darkroom runs", description="List the runs of a folder, newest first.")
    parser.add_argument("folder", nargs="?", type=Path, help="default: runs")
    parser.add_argument("--json", action="store_true", help="print JSON, with notes on what is missing or damaged")
    options = parser.parse_args(argv)
    if options.folder and not options.folder.is_dir():
        print(f"darkroom: error: {options.folder} must be a folder of runs; it does not exist", file=sys.stderr)
        return 2
    top = options.folder or Path("runs")  # which does not exist before the first fit
    rows = []
    for folder in sorted(find_runs(top), key=last_sign, reverse=True):
        try:
            rows.append(make_row(read_run(folder)))
        except (UserError, OSError) as error:  # such as a run that is being deleted
            print(f"darkroom: {folder} is left out: {error}", file=sys.stderr)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    elif rows:
        print(format_rows(rows))
    else:
        print(f"{top} has no runs")
    return 0
