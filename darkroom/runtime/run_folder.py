"""A run's folder, ``runs/<experiment>/<n>/``."""

import sys
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from darkroom.errors import StorageError
from darkroom.runtime import slurm

JOB = "job"  # the file in a run's folder


@rank_zero_only
def _say(what: str) -> None:
    print(what, file=sys.stderr)


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
        except (NotADirectoryError, FileNotFoundError) as error:
            raise StorageError(
                f"{error.filename} cannot be made ({error.strerror}); choose another --runs_dir"
            ) from error


@rank_zero_only
def leave_job(run: Path) -> None:
    """Leaves in a run's folder the name of the cluster's job that trains it, by which a restart of the job finds it."""
    if slurm.job():
        (run / JOB).write_text(f"{slurm.job()}\n", encoding="utf-8")


def run_of_job(experiment: Path) -> Path | None:
    """The newest run that an earlier start of this very job began."""
    job = slurm.job()
    if job is None or not slurm.may_be_restarted():
        return None
    for run in reversed(runs_of(experiment)):
        if (run / JOB).is_file() and (run / JOB).read_text(encoding="utf-8").strip() == job:
            _say(f"darkroom: job {job} goes on with {run}")
            return run
    return None


def checkpoint_of(run: Path | None, name: str) -> str | None:
    """``checkpoints/<name>.ckpt`` of a run, if it has one."""
    path = run / "checkpoints" / f"{name}.ckpt" if run else None
    return str(path) if path and path.is_file() else None


def newest_checkpoint(experiment: Path, name: str, but: Path | None = None) -> str | None:
    """``checkpoints/<name>.ckpt`` of the newest run, if it has one; ``but`` does not count as a run."""
    return checkpoint_of(next((run for run in reversed(runs_of(experiment)) if run != but), None), name)


def fit_without_checkpoint(experiment: Path) -> Path | None:
    """The newest run, if it is of a fit that was killed before its first checkpoint; a new one, if it was not yet made."""
    if not experiment.is_dir():
        return None
    for run in runs_of(experiment)[-1:]:
        others = [command for command in ("validate", "test", "predict") if (run / f"{command}.yaml").exists()]
        if others or any(run.glob("checkpoints/*.ckpt")):
            return None
        _say(f"darkroom: {run} has no checkpoint yet; it begins anew")
        return run
    return new_run(experiment)


def remove_if_empty(run: Path | None) -> None:
    """A run that failed before it wrote anything leaves no folder, nor the empty ones it lay in."""
    if run and [path.name for path in run.glob("*")] == [JOB]:
        (run / JOB).unlink()
    for folder in (run, *run.parents[:2]) if run else ():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def say_how_to_go_on(run: Path, mended: bool) -> None:
    """Says that a fit that ended early can go on, if it can; ``mended``: once what ended it is."""
    last = run / "checkpoints" / "last.ckpt"
    if last.is_file():
        when = "once this is mended, the" if mended else "the"
        _say(f"\ndarkroom: {last} is whole; {when} same command with --ckpt_path last goes on from it")


def describe(run: Path) -> None:
    """Prints where a run lies and its newest figure of each kind."""
    print(f"run folder: {run}")
    for what in sorted(run.glob("figures/*")):
        newest = max(what.glob("*.png"), default=None) or max(what.glob("*.gif"), default=None)
        if newest:
            print(f"  {what.name}: {newest}")
    if (run / "predictions").is_dir():
        print(f"  predictions: {run / 'predictions'}")
