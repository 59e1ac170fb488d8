"""ResumableCSVLogger: metrics of a run in metrics.csv, beside any other loggers."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class ResumableCSVLogger(Logger):
    """Logger that appends every metric to ``metrics.csv`` in the run folder.

    As the first logger it defines ``trainer.log_dir`` on every rank, the folder of checkpoints and figures. A resumed fit
    keeps the rows that existed when its checkpoint was written (``rows``, ``truncate``) and writes the later ones again
    (tests/runtime/test_resume.py). Lightning's CSVLogger starts an empty file and stores all rows in memory.

    Args:
        folder: folder of the run.
        resumed: drop the rows of an earlier fit, unless ``truncate`` sets the number to keep.
    """

    name = ""
    version = ""

    def __init__(self, folder: Path, resumed: bool = False) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows = 0
        self.dropped = 0  # rows of an earlier fit that ``truncate`` removed
        self._limit = 0 if resumed else None  # number of old rows to keep; None: all
        self._columns: list[str] = []  # none before the file is opened

    @property
    def save_dir(self) -> str:
        """Folder of the run."""
        return str(self.path.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing, since config.yaml has the resolved config."""

    def truncate(self, rows: int | None) -> None:
        """Keep only the first rows of the file; None: keep all."""
        written = len(self._read())
        self._limit, self._columns, self.rows = rows, [], written if rows is None else min(rows, written)
        self.dropped = written - self.rows

    def count_rows(self) -> int:
        """Return the number of rows in the file."""
        return len(self._read())

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; new metrics become columns, and the file is written again."""
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        rows = None if self._columns else self._open()
        new = sorted(row.keys() - set(self._columns))
        if new or rows is not None:
            self._columns += new
            self._rewrite(self._read() if rows is None else rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)
        self.rows += 1

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _open(self) -> list[dict[str, str]]:
        """Read the columns and the rows to keep."""
        rows = self._read()
        self._columns = list(rows[0]) if rows else ["step", "epoch"]
        rows = rows[: self._limit]
        self.rows = len(rows)
        return rows

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".csv.part")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.path)
