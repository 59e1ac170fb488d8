"""Folder of a run, ``runs/<experiment>/<n>/``."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from darkroom.errors import StorageError
from darkroom.runtime import slurm
from darkroom.runtime.lightning_compat import process_rank
from darkroom.runtime.records import results
from darkroom.runtime.records.run_record import FILE

JOB = "job"  # the file in a run's folder


@rank_zero_only
def _report(message: str) -> None:
    print(message, file=sys.stderr)


def list_runs(experiment: Path) -> list[Path]:
    """List the runs of an experiment, oldest first."""
    numbered = [path for path in experiment.glob("*") if path.name.isdigit() and path.is_dir()]
    return sorted(numbered, key=lambda path: int(path.name))


def create_run(experiment: Path) -> Path:
    """Create the next numbered folder; processes that start at the same time get different folders.

    Raises:
        StorageError: the folder cannot be created.
    """
    number = int(list_runs(experiment)[-1].name) + 1 if list_runs(experiment) else 0
    if process_rank() != 0:  # rank 0 creates it, and Lightning broadcasts its name
        return experiment / str(number)
    while True:
        try:
            (experiment / str(number)).mkdir(parents=True)
            return experiment / str(number)
        except FileExistsError:
            number += 1
        except (NotADirectoryError, FileNotFoundError) as error:
            raise StorageError(
                f"{error.filename} cannot be created ({error.strerror}); choose another --runs_dir"
            ) from error


@rank_zero_only
def record_job(run: Path) -> None:
    """Write the name of the cluster job to the run folder, so that a restarted job finds its run."""
    if slurm.job_name():
        (run / JOB).write_text(f"{slurm.job_name()}\n", encoding="utf-8")


def find_run_of_job(experiment: Path) -> Path | None:
    """Return the newest run that an earlier start of this job began; None without one."""
    job = slurm.job_name()
    if job is None or not slurm.may_be_restarted():
        return None
    for run in reversed(list_runs(experiment)):
        if (run / JOB).is_file() and (run / JOB).read_text(encoding="utf-8").strip() == job:
            _report(f"darkroom: job {job} resumes {run}")
            return run
    return None


def find_checkpoint(run: Path | None, name: str) -> str | None:
    """Return ``checkpoints/<name>.ckpt`` of a run; None if it does not exist."""
    path = run / "checkpoints" / f"{name}.ckpt" if run else None
    return str(path) if path and path.is_file() else None


def find_newest_checkpoint(experiment: Path, name: str, but: Path | None = None) -> str | None:
    """Return ``checkpoints/<name>.ckpt`` of the newest run other than ``but``; None if it does not exist."""
    return find_checkpoint(next((run for run in reversed(list_runs(experiment)) if run != but), None), name)


def find_unsaved_fit(experiment: Path) -> Path | None:
    """Return the newest run if it is a fit without a checkpoint; create a run if the experiment has none.

    None: the newest run has a checkpoint or is of another command, or the experiment does not exist.
    """
    if not experiment.is_dir():
        return None
    for run in list_runs(experiment)[-1:]:
        others = [command for command in ("validate", "test", "predict") if (run / f"{command}.yaml").exists()]
        if others or any(run.glob("checkpoints/*.ckpt")):
            return None
        _report(f"darkroom: {run} has no checkpoint yet; it starts from scratch")
        return run
    return create_run(experiment)


def remove_if_empty(run: Path | None) -> None:
    """Remove the folder of a run that wrote nothing, and its parents if they are empty."""
    if run and [path.name for path in run.glob("*")] == [JOB]:
        (run / JOB).unlink()
    for folder in (run, *run.parents[:2]) if run else ():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@rank_zero_only
def remove_if_unused(run: Path) -> None:
    """Remove the folder of a command that failed before it wrote more than its config and record; its number is free."""
    written = [path for path in run.rglob("*") if path.is_file()]
    if run.is_dir() and all(path.parent == run and (path.suffix == ".yaml" or path.name == FILE) for path in written):
        shutil.rmtree(run)


def print_resume_hint(run: Path, failed: bool) -> None:
    """Print how to resume a fit that ended early, if it has a checkpoint.

    Args:
        run: folder of the run.
        failed: True if an error ended it, which must be fixed first.
    """
    last = run / "checkpoints" / "last.ckpt"
    if last.is_file():
        when = "once this is fixed, " if failed else ""
        _report(f"\ndarkroom: {last} is intact; {when}the same command with --ckpt_path last resumes from it")


def written_files(run: Path) -> dict[Path, int]:
    """Return figures, predictions and test results of a run, each with its time of modification in nanoseconds."""
    files = [
        path
        for folder in ("figures", "predictions", results.FOLDER)
        for path in run.glob(f"{folder}/**/*")
        if path.is_file()
    ]
    return {path: path.stat().st_mtime_ns for path in files}


def print_summary(run: Path, before: Mapping[Path, int]) -> None:
    """Print the folder of a run, the newest figure of each kind, and the folders of predictions and test results.

    Only what this command wrote is printed.

    Args:
        run: folder of the run.
        before: ``written_files`` at the start of the command.
    """
    print(f"run folder: {run}")
    written = [path for path, time in written_files(run).items() if before.get(path) != time]
    for what in sorted({path.parent for path in written if path.parents[1] == run / "figures"}):
        names = sorted(
            (path for path in written if path.parent == what), key=lambda path: (path.suffix == ".png", path)
        )
        print(f"  {what.name}: {names[-1]}")
    for title, name in {"predictions": "predictions", "test results": results.FOLDER}.items():
        if any(run / name in path.parents for path in written):
            print(f"  {title}: {run / name}")
