"""Run the command line for a table, and read the metrics of its runs."""

import csv
import subprocess
import sys
from pathlib import Path

from darkroom.runtime.records.past_tests import read_tests


class CommandFailedError(Exception):
    """A command that failed; the message contains the command and the end of its output."""


def run_darkroom(command: str, *arguments: str) -> None:
    """Run the command line; raise a CommandFailedError if it fails."""
    done = subprocess.run([sys.executable, "-m", "darkroom", command, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise CommandFailedError(f"darkroom {command} {' '.join(arguments)}\n{done.stderr[-2000:]}")


def newest_run(experiment: Path) -> Path:
    """Return the run with the largest number of an experiment."""
    return max(experiment.iterdir(), key=lambda folder: int(folder.name))


def read_column(metrics: Path, name: str) -> list[float]:
    """Return all values of a metric in a metrics.csv."""
    with metrics.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def read_newest_test(run: Path) -> dict[str, float]:
    """Return the metrics of the newest test of a run's checkpoints by name, without their stage."""
    tests = read_tests(run)
    if not tests:
        raise CommandFailedError(f"{run} must have a test; run darkroom test with its checkpoint")
    return {name.removeprefix("test/"): value for name, value in tests[-1].metrics.items()}
