"""Run one row with one seed, as ``darkroom chain`` in a process with one thread."""

import math
import os
import platform
import subprocess
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.results.commands import read_newest_test
from benchmarks.results.table.raw import Result
from benchmarks.results.table.rows import ROOT, Row
from darkroom.cli.chain import Record
from darkroom.cli.usage_errors import EXTRAS
from darkroom.paths import install_command
from darkroom.runtime.run_folder import list_runs


class RowFailedError(Exception):
    """A row that cannot run, or whose command failed; the message has the reason."""


def require_package(row: Row) -> None:
    """Raise a RowFailedError if the row needs data or a package that is not here."""
    if row.needs:
        raise RowFailedError(f"needs {row.needs}")
    if row.package and find_spec(row.package) is None:
        raise RowFailedError(f"needs the package {row.package}: {install_command(EXTRAS[row.package])}")


@cache
def processor() -> tuple[str, frozenset[str]]:
    """Return the name of the processor and the names of its features, where the system lists them."""
    info = Path("/proc/cpuinfo")
    found: dict[str, str] = {}
    for line in info.read_text().splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    name = found.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(found.get("flags", found.get("Features", "")).split())


def has_bf16() -> bool:
    """Return True if the processor has instructions for bf16."""
    return bool(processor()[1] & {"avx512_bf16", "amx_bf16", "bf16"})


def machine() -> str:
    """Describe processor, instruction set and the version of torch."""
    instructions = torch.backends.cpu.get_cpu_capability() + (", bf16" if has_bf16() else "")
    return f"{processor()[0]}, {os.cpu_count()} cores, {instructions}; torch {torch.__version__}"


def commit() -> str:
    """Return the abbreviated commit of the code, with ``+`` if files differ from it."""
    words = ("git", "-C", str(ROOT))
    name = subprocess.run([*words, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*words, "diff", "--quiet", "HEAD", "--", ":!docs"], capture_output=True).returncode
    return f"{name}{'+' if changed else ''}"


def read_test_metrics(run: Path) -> dict[str, float]:
    """Return the finite metrics of a run's newest test, without ``test/``, with six significant digits."""
    return {name: float(f"{value:.6g}") for name, value in read_newest_test(run).items() if math.isfinite(value)}


@dataclass
class Runner:
    """Runs rows in processes of their own.

    Args:
        rows: all rows.
        runs_dir: folder of the runs.
        options: options of ``darkroom fit`` for every stage, for shortened trials.
    """

    rows: dict[str, Row]
    runs_dir: Path
    options: tuple[str, ...] = ()
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _locks: defaultdict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    def __call__(self, row: Row, seed: int) -> Result:
        """Run a row, or what is left of it; return its result.

        Raises:
            RowFailedError: the command failed; its output is in ``log.txt``.
        """
        precision = "bf16-mixed" if row.bf16 and has_bf16() else "32-true"
        measure = self._test_alone if row.test_only else self._chain
        run, fits, test_seconds, parameters = measure(row, seed, precision)
        metrics = read_test_metrics(run)
        if missing := row.metrics.keys() - metrics.keys():
            names = ", ".join(sorted(metrics))
            raise RowFailedError(f"has no test metric {', '.join(sorted(missing))}; its metrics are {names}")
        return Result(
            row=row.name,
            seed=seed,
            configs=row.fingerprint(self.rows),
            metrics=metrics,
            fit_seconds=[round(seconds, 1) for seconds in fits],
            test_seconds=round(test_seconds, 1),
            parameters=parameters,
            precision=precision,
            machine=machine(),
            commit=commit(),
        )

    def _experiment(self, row: Row, seed: int, precision: str) -> str:
        return f"{row.name}/seed-{seed}-{precision}-{row.fingerprint(self.rows)}"

    def _shared(self, seed: int, precision: str) -> list[str]:
        shared = ["--runs_dir", str(self.runs_dir), "--seed_everything", str(seed), "--trainer.precision", precision]
        shared += ["--data.num_workers", "0", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
        return [*shared, *self.options]

    def _chain(self, row: Row, seed: int, precision: str) -> tuple[Path, list[float], float, int]:
        """Fit and test a row unless its runs are finished; return run folder, times and parameters of the last stage."""
        require_package(row)
        options, used_fits, _ = self._fit_used_rows(row, seed, precision)
        experiment = self._experiment(row, seed, precision)
        names = [path.stem for path in row.config_files()]
        runs = [self.runs_dir / experiment / f"{number}-{name}/0" for number, name in enumerate(names, 1)]
        with self._locks[experiment]:  # another row may use this one
            if Record.read(runs[-1]).test_seconds is None:
                words = ["chain", *row.stage_arguments(), "--experiment", experiment, "--test_ckpt", row.test_ckpt]
                self._darkroom([*words, *options, *self._shared(seed, precision)], experiment)
        records = [Record.read(run) for run in runs]
        fits = used_fits + [one.fit_seconds for one in records]
        return runs[-1], fits, records[-1].test_seconds or 0.0, records[-1].parameters

    def _test_alone(self, row: Row, seed: int, precision: str) -> tuple[Path, list[float], float, int]:
        """Fit the rows that this one uses, and test its config with their checkpoints; return as ``_chain``."""
        options, fits, parameters = self._fit_used_rows(row, seed, precision)
        experiment = self._experiment(row, seed, precision)
        words = ["test", "--config", row.stage_arguments()[0], *options, "--experiment", experiment]
        test_seconds = self._darkroom([*words, *self._shared(seed, precision)], experiment)
        newest = list_runs(self.runs_dir / experiment)[-1]
        return newest, [sum(fits)], test_seconds, parameters

    def _fit_used_rows(self, row: Row, seed: int, precision: str) -> tuple[list[str], list[float], int]:
        """Fit the rows that this one uses; return options with their checkpoints, the fits' times and all parameters."""
        options, fits, parameters, files = list[str](), list[float](), 0, dict[str, str]()
        for name in row.used_rows():
            run, seconds, _, weights = self._chain(self.rows[name], seed, precision)
            fits, parameters = fits + seconds, parameters + weights
            files[name] = f"{run}/checkpoints/{self.rows[name].test_ckpt}.ckpt"
        for option, names in row.uses.items():
            value = files[names] if isinstance(names, str) else f"[{', '.join(files[name] for name in names)}]"
            options += [f"--{option}", value]
        return options, fits, parameters

    def _darkroom(self, words: list[str], experiment: str) -> float:
        """Run a command with one thread; return its processor time in seconds."""
        log = self.runs_dir / experiment / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "darkroom", *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches it through ``stop`` alone
            )
            self.processes.append(process)
            _, status, usage = os.wait4(process.pid, 0)
            self.processes.remove(process)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RowFailedError(f"exit code {process.returncode}: {lines[-1] if lines else ''} (see {log})")
        return usage.ru_utime + usage.ru_stime

    def stop(self, signum: int) -> None:
        """Send a signal to all commands, which save and end."""
        for process in list(self.processes):
            os.kill(process.pid, signum)
