"""Record of a fit in its run folder: state, time, machine and versions."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from darkroom import __version__
from darkroom.secrets import redact

FILE = "run.json"  # in the run folder
_GIT_SECONDS = 5
State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class DataFacts:
    """Data of a fit.

    Args:
        samples: number of samples by split, of those splits whose loader states it.
        class_names: in the order of the labels; empty without classes.
        image_shape: (C, H, W) of a batch, H and W are 0 if images have any size; None if it is not known.
        mean, std: per channel, which the datamodule subtracts and divides by; None if it does not normalize.
    """

    samples: dict[str, int]
    class_names: list[str]
    image_shape: list[int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None


@dataclass(frozen=True)
class RunRecord:
    """Facts of a fit that its config and metrics do not contain.

    Args:
        command: command line that started it, without secrets.
        state: ``running`` also after its process was killed.
        started: time of the first start, ISO 8601 with time zone.
        host, pid: machine and process of the last start.
        process_start: start of that process, since numbers of processes are reused; None where it is not known.
        seconds: of training and validation, over all starts.
        peak_memory_mib: of GPU memory, or of the process on a CPU, of rank 0, over all starts; None before the end of an
            epoch.
        parameters: number of weights, with frozen ones; None if the first batch determines the shape of some.
        seed: of the run; None: not seeded.
        devices: number of processes.
        precision: of the Trainer.
        machine: model of the processor or GPU.
        versions: of Python and the packages, by name.
        commit: of the working folder, see ``current_commit``; None outside of a Git repository.
        data: of the fit; None before its first step.
        steps: number of training steps; None before the end of an epoch.
    """

    command: str
    state: State
    started: str
    host: str
    pid: int
    seconds: float = 0.0
    peak_memory_mib: float | None = None
    parameters: int | None = None
    seed: int | None = None
    devices: int = 1
    precision: str = "32-true"
    machine: str = ""
    versions: dict[str, str] | None = None
    commit: str | None = None
    process_start: str | None = None
    data: DataFacts | None = None
    steps: int | None = None

    def write(self, run: Path) -> None:
        """Write the record into a run folder; a reader never sees half of it."""
        run.mkdir(parents=True, exist_ok=True)
        temporary = run / f"{FILE}.part"
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        temporary.replace(run / FILE)


def read_record(run: Path) -> RunRecord | None:
    """Return the record of a run; None if the run is of an earlier version or the file is damaged."""
    try:
        content = json.loads((run / FILE).read_text(encoding="utf-8"))
        known = {field.name: content[field.name] for field in fields(RunRecord) if field.name in content}
        if known.get("data") is not None:
            known["data"] = DataFacts(**known["data"])
        return RunRecord(**known)
    except (OSError, ValueError, TypeError):
        return None


def is_alive(record: RunRecord) -> bool:
    """Return True if the process of a record runs, or may run, because it is on another machine."""
    if record.state != "running":
        return False
    if is_remote(record):
        return True
    started = process_start(record.pid)
    if started and record.process_start:
        return started == record.process_start
    if sys.platform == "win32":  # os.kill would end the process
        return True
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # a process of another user has the number
    return True


def is_remote(record: RunRecord) -> bool:
    """Return True if the process of a record is on another machine."""
    return record.host != platform.node()


def process_start(pid: int) -> str | None:
    """Return a text that differs between all processes of a machine with a number; None without the files of Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return f"{boot} {status.rpartition(')')[2].split()[19]}"  # field 22, ticks since the boot; a name has spaces


def describe_start(argv: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a record that are known when a process starts.

    Args:
        argv: program and arguments, as ``sys.argv``.
    """
    program = "darkroom" if Path(argv[0]).name == "__main__.py" else Path(argv[0]).name  # or a script with a Trainer
    return {
        "command": shlex.join([program, *redact(argv[1:])]),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": platform.node(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "versions": installed_versions(),
        "commit": current_commit(Path.cwd()),
    }


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, Darkroom and the libraries that results depend on."""
    libraries = ("torch", "torchvision", "lightning", "torchmetrics")
    found = {name: version(name) for name in libraries}
    return {"python": platform.python_version(), "darkroom": __version__, **found}


def current_commit(folder: Path) -> str | None:
    """Return the first ten digits of a folder's Git commit, and ``+`` if tracked files differ from it.

    ``?`` instead: Git could not list the changes within five seconds, such as in a large repository on a slow disk.
    """

    def git(*arguments: str) -> str:
        # Without locks, a commit that the user makes at the same time does not fail.
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=True, timeout=_GIT_SECONDS
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=10", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    try:
        return f"{commit}+" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return f"{commit}?"


def peak_memory_of_process() -> float | None:
    """Return the largest memory of this process so far, in MiB; None on Windows."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where getrusage counts the parent's memory before exec too
        peak = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        return int(peak[1]) / 2**10 if peak else None
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes; elsewhere KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def describe_processor() -> str:
    """Return the model of the processor and the number of its cores that this process may use."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{model}, {cores} cores"
