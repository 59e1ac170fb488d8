"""A run, read back from its folder."""

import csv
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from darkroom.errors import DataError, UsageError
from darkroom.runtime.records.options import flatten, load_yaml
from darkroom.runtime.records.results import Results, read_results
from darkroom.runtime.records.run_record import FILE, RunRecord, is_alive, is_remote, read_record

State = Literal["running", "finished", "resumable", "stopped", "stopped?", "tested"]
_SILENCE = 2 * 3600  # seconds without a sign of life after which a fit on another machine has probably stopped


@dataclass(frozen=True)
class Point:
    """Value of a metric at a time.

    Args:
        step: training step.
        epoch: of that step; None if the row has none.
        value: finite or not.
    """

    step: int
    epoch: int | None
    value: float


@dataclass(frozen=True)
class Run:
    """Folder of a run, as far as it could be read.

    Args:
        folder: ``runs/<experiment>/<n>``.
        config: content of config.yaml; of test.yaml or validate.yaml if the run only tested; empty if it is damaged.
        metrics: values in the order of metrics.csv, by name; empty without the file.
        record: facts of the fit; None for runs of earlier versions.
        results: of its test; None if it was not tested.
        notes: sentences on what is missing or damaged.
    """

    folder: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, list[Point]]
    record: RunRecord | None
    results: Results | None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Experiment and number, such as ``unet/0``."""
        return f"{self.folder.absolute().parent.name}/{self.folder.absolute().name}"

    @property
    def method(self) -> str:
        """Class of the model."""
        return _class_name(self.config, "model")

    @property
    def data(self) -> str:
        """Class of the datamodule."""
        return _class_name(self.config, "data")

    @cached_property
    def options(self) -> dict[str, Any]:
        """Options of the config by full key."""
        return dict(flatten(self.config))

    @property
    def monitor(self) -> str | None:
        """Main metric of the model in validation, such as ``val/mIoU``."""
        checkpoint = self.config.get("checkpoint")
        monitor = checkpoint.get("monitor") if isinstance(checkpoint, dict) else None
        return monitor if isinstance(monitor, str) else None

    @property
    def maximizes(self) -> bool:
        """True if larger values of the main metric are better."""
        checkpoint = self.config.get("checkpoint")
        return isinstance(checkpoint, dict) and checkpoint.get("mode") == "max"

    @property
    def best(self) -> Point | None:
        """Best finite value of the main metric; None without one."""
        points = [point for point in self.metrics.get(self.monitor or "", []) if math.isfinite(point.value)]
        if not points:
            return None
        return (max if self.maximizes else min)(points, key=lambda point: point.value)

    @property
    def best_metrics(self) -> dict[str, float]:
        """Metrics of the validation with the best value of the main metric, by name; empty without one."""
        if self.best is None:
            return {}
        values = {}
        for name, points in self.metrics.items():
            at = [point.value for point in points if point.step == self.best.step] if name.startswith("val/") else []
            if at:
                values[name] = at[-1]
        return values

    @property
    def test_metrics(self) -> dict[str, float]:
        """Newest values of the test, by name, such as ``test/mIoU``."""
        return {name: points[-1].value for name, points in self.metrics.items() if name.startswith("test/")}

    @property
    def main_value(self) -> tuple[str, float | None]:
        """Name and value of the main metric: that of the test if the run was tested, else the best one in validation."""
        tested = self.test_metrics
        name = f"test/{(self.monitor or '').partition('/')[2]}"
        if name in tested and math.isfinite(tested[name]):
            return name, tested[name]
        return (self.monitor or "", self.best.value) if self.best else ("", None)

    @property
    def epochs(self) -> int:
        """Number of finished epochs: those with a validation; without any, those before the newest that logged a metric."""
        validated = _epochs(points for name, points in self.metrics.items() if name.startswith("val/"))
        if validated:
            return max(validated) + 1
        return max(_epochs(points for name, points in self.metrics.items() if name.startswith("train/")), default=0)

    @property
    def max_epochs(self) -> int | None:
        """Number of epochs of the config; None if it has no limit."""
        trainer = self.config.get("trainer")
        value = trainer.get("max_epochs") if isinstance(trainer, dict) else None
        return value if isinstance(value, int) and value >= 0 else None

    @property
    def state(self) -> State:
        """State of the fit; ``tested`` for a run without one.

        ``stopped?``: its process is on another machine, and for two hours neither metrics, record nor checkpoints changed.
        """
        if not (self.folder / "config.yaml").is_file():
            return "tested"
        if self.record is not None and is_alive(self.record):
            silent = is_remote(self.record) and time.time() - last_sign(self.folder) > _SILENCE
            return "stopped?" if silent else "running"
        reached = self.max_epochs is not None and self.epochs >= self.max_epochs
        if self.record.state == "finished" if self.record else reached:
            return "finished"
        return "resumable" if (self.folder / "checkpoints" / "last.ckpt").is_file() else "stopped"

    @cached_property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def _epochs(series: Iterable[list[Point]]) -> list[int]:
    return [point.epoch for points in series for point in points if point.epoch is not None]


def _class_name(config: Mapping[str, Any], section: str) -> str:
    content = config.get(section)
    path = content.get("class_path") if isinstance(content, dict) else None
    return path.rpartition(".")[2] if isinstance(path, str) else ""


def last_sign(run: Path) -> float:
    """Return the time of the newest change of a run's metrics, record or checkpoints, else of its folder.

    It is in seconds since 1970; 0 for a folder that was deleted meanwhile.
    """

    def changed(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:
            return 0.0

    files = [run / "metrics.csv", run / FILE, *(run / "checkpoints").glob("*.ckpt")]
    return max(map(changed, files)) or changed(run)


def is_run(folder: Path) -> bool:
    """Return True if a folder has the config of a run."""
    return any((folder / f"{name}.yaml").is_file() for name in ("config", "test", "validate"))


def find_runs(folder: Path) -> list[Path]:
    """Return the folders of all runs in a folder, at any depth, sorted; runs inside of runs are left out."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and not path.is_symlink():
            found += [path] if is_run(path) else find_runs(path)
    return found


def read_run(folder: Path) -> Run:
    """Read a run; what is damaged is left out and noted.

    Raises:
        UsageError: the folder does not exist or has no config.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} does not exist; give the folder of a run, such as runs/unet/0")
    if not is_run(folder):
        runs = find_runs(folder)
        advice = f"it holds the runs {', '.join(map(str, runs[:3]))}" if runs else "give one such as runs/unet/0"
        raise UsageError(f"{folder} is not the folder of a run, because it has no config.yaml; {advice}")
    notes: list[str] = []
    config = _read_config(folder, notes)
    metrics = _read_metrics(folder / "metrics.csv", notes)
    record = read_record(folder)
    if record is None and (folder / "config.yaml").is_file():
        notes.append("run.json is missing, so machine, time and memory of the fit are not known.")
    try:
        results = read_results(folder)
    except DataError as error:
        results = None
        notes.append(f"{error}.")
    return Run(folder, config, metrics, record, results, notes)


def _read_config(folder: Path, notes: list[str]) -> dict[str, Any]:
    path = next(
        folder / f"{name}.yaml" for name in ("config", "test", "validate") if (folder / f"{name}.yaml").is_file()
    )
    try:
        content = load_yaml(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        notes.append(f"{path.name} cannot be read ({reason}).")
        return {}
    if not isinstance(content, dict):
        notes.append(f"{path.name} is no config.")
        return {}
    return content


def _read_metrics(path: Path, notes: list[str]) -> dict[str, list[Point]]:
    """Read the values of every metric; rows that are cut off are skipped and noted."""
    if not path.is_file():
        notes.append("metrics.csv is missing, so there are no curves.")
        return {}
    found: dict[str, list[Point]] = {}
    damaged = 0
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                try:
                    for name, point in _points(row):
                        found.setdefault(name, []).append(point)
                except (TypeError, ValueError):
                    damaged += 1
    except (OSError, csv.Error) as error:
        notes.append(f"metrics.csv cannot be read to its end ({error}).")
    if damaged:
        notes.append(f"metrics.csv has {damaged} damaged row{'s' if damaged > 1 else ''}, left out.")
    return found


def _points(row: Mapping[str, str | None]) -> Iterator[tuple[str, Point]]:
    """Yield the metrics of a row with their values.

    Raises:
        TypeError, ValueError: the row is cut off.
    """
    if None in row or None in row.values():
        raise ValueError("the number of cells differs from that of the columns")
    step, epoch = row.get("step"), row.get("epoch")
    at = int(float(step or 0)), int(float(epoch)) if epoch else None
    # All at once, so that nothing is taken from a row that is cut off.
    yield from [
        (name, Point(*at, float(value))) for name, value in row.items() if value and name not in ("step", "epoch")
    ]
