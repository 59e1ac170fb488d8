"""A run's folder, ``runs/<experiment>/<n>/``, and the metrics.csv in it."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


def runs_of(experiment: Path) -> list[Path]:
    """The runs of an experiment, oldest first."""
    numbered = [path for path in experiment.glob("*") if path.name.isdigit() and path.is_dir()]
    return sorted(numbered, key=lambda path: int(path.name))


def new_run(experiment: Path) -> Path:
    """Makes the next numbered folder; two processes that start at once get two."""
    number = int(runs_of(experiment)[-1].name) + 1 if runs_of(experiment) else 0
    if rank_zero_only.rank != 0:  # rank 0 makes it, and Lightning tells the others where it is
        return experiment / str(number)
    while True:
        try:
            (experiment / str(number)).mkdir(parents=True)
            return experiment / str(number)
        except FileExistsError:
            number += 1


def newest_checkpoint(experiment: Path, name: str) -> str | None:
    """``checkpoints/<name>.ckpt`` of the newest run, if it has one."""
    found = [run / "checkpoints" / f"{name}.ckpt" for run in runs_of(experiment)[-1:]]
    return str(found[0]) if found and found[0].is_file() else None


def remove_if_empty(run: Path | None) -> None:
    """A run that failed before it wrote anything leaves no folder, nor the empty ones it lay in."""
    for folder in (run, *run.parents[:2]) if run else ():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def describe(run: Path) -> None:
    """Prints where a run lies and its newest picture of each kind."""
    print(f"run folder: {run}")
    for what in sorted(run.glob("pictures/*")):
        newest = max(what.glob("*.png"), default=None) or max(what.glob("*.gif"), default=None)
        if newest:
            print(f"  {what.name}: {newest}")
    if (run / "predictions").is_dir():
        print(f"  predictions: {run / 'predictions'}")


class MetricsFile(Logger):
    """Appends every logged metric to ``metrics.csv`` in the run's folder, which it also tells Lightning of.

    Being the first logger, its ``save_dir`` is ``trainer.log_dir``, on every rank: checkpoints and pictures go there.
    A continued fit keeps the rows up to where it continues; later ones, of the run that was killed, are written again.
    """

    name = ""
    version = ""

    def __init__(self, folder: Path, continued: bool = False) -> None:
        super().__init__()
        self.path, self._continued = folder / "metrics.csv", continued
        self._columns: list[str] | None = None

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved config lies in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        rows = self._open(step) if self._columns is None else None
        new = sorted(row.keys() - set(self._columns))
        if new or rows is not None:
            if rows is None:
                rows = self._read()
            self._columns += new
            self._rewrite(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _open(self, step: int | None) -> list[dict[str, str]]:
        rows = self._read()
        self._columns = list(rows[0]) if rows else ["step", "epoch"]
        if self._continued and step is not None:
            rows = [row for row in rows if not row["step"] or int(row["step"]) < step]
        return rows

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".csv.part")
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        aside.replace(self.path)
