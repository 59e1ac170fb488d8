"""MetricsFile: metrics.csv, the scores of a run as a file that is there whatever else keeps them."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class MetricsFile(Logger):
    """Appends every logged metric to ``metrics.csv`` in the run's folder, which it also tells Lightning of.

    Being the first logger, its ``save_dir`` is ``trainer.log_dir``, on every rank: checkpoints and pictures go there.
    A fit that goes on keeps the rows there were when its checkpoint was written (``rows``, ``keep``); what the run that
    was ended had written after it is written again.
    """

    name = ""
    version = ""

    def __init__(self, folder: Path, continued: bool = False) -> None:
        super().__init__()
        self.path, self._kept = folder / "metrics.csv", 0 if continued else None
        self._columns: list[str] | None = None
        self.rows = 0

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved config lies in config.yaml."""

    def keep(self, rows: int | None) -> None:
        """Forgets all but the first rows; None: keeps all."""
        self._kept, self._columns, self.rows = rows, None, len(self._read()[:rows])

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        rows = self._open() if self._columns is None else None
        new = sorted(row.keys() - set(self._columns))
        if new or rows is not None:
            if rows is None:
                rows = self._read()
            self._columns += new
            self._rewrite(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)
        self.rows += 1

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _open(self) -> list[dict[str, str]]:
        rows = self._read()
        self._columns = list(rows[0]) if rows else ["step", "epoch"]
        rows = rows[: self._kept]
        self.rows = len(rows)
        return rows

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".csv.part")
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        aside.replace(self.path)
