"""Cluster job of this process, started by Slurm or torchrun: name, restarts and requeueing."""

import os
import re
import subprocess
import sys

WARNED, TERMINATED = 128 + 10, 128 + 15  # exit codes after SIGUSR1 and SIGTERM, where there is Slurm


def job_name() -> str | None:
    """Return a unique name that all processes and restarts of a job share; None outside of a job."""
    return _given_name() or _slurm_name() or (f"torchrun-{_rendezvous()}" if _rendezvous() else None)


def may_be_restarted() -> bool:
    """Return True if a run with this job's name may come from an earlier start of the job.

    Slurm counts restarts. torchrun counts only those on this machine, so its unique id counts as a restart, and so does a
    name given by the user. The id does not count if several commands of one Slurm job share the name.
    """
    shared = _slurm_name() is not None and "SLURM_STEP_ID" not in os.environ
    counts = [os.environ.get(name, "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")]
    return any(count != "0" for count in counts) or bool(_given_name() or (_rendezvous() and not shared))


def _given_name() -> str | None:
    """Return the name that the user gave the job, for other schedulers."""
    return os.environ.get("DARKROOM_JOB") or None


def _slurm_name() -> str | None:
    """Return the number of the job, or of the array and its task, and the step, which each start counts from 0."""
    number, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        number = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    return f"slurm-{number}.{os.environ.get('SLURM_STEP_ID', 'batch')}" if number else None


def _rendezvous() -> str | None:
    """Return torchrun's ``--rdzv-id``, given or generated; None without torchrun."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if run_id == "none" else run_id


def default_port() -> int | None:
    """Return the port at which Lightning lets the tasks of a Slurm job meet; None outside of a job with several tasks."""
    number, tasks = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_NTASKS", "1")
    return 15000 + int(number[-4:]) if number and int(tasks) > 1 else None


def requeue(code: int) -> None:
    """Requeue a Slurm job whose fit was stopped and should resume; call it last, since requeueing ends this process.

    A fit should resume after SIGUSR1, which announces the time limit, and after pre-emption: Slurm itself requeues a
    pre-empted job only if it still runs at the end of its grace time. A job that its user cancels also gets SIGTERM, and
    stays cancelled.

    Args:
        code: exit code of the fit, 128 plus the number of the signal that stopped it.
    """
    number = os.environ.get("SLURM_JOB_ID")
    first = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
    if number is None or not first or not (code == WARNED or (code == TERMINATED and _preempted(number))):
        return
    refused = _scontrol("requeue", number)[1]
    how = f"could not be requeued ({refused}); submit it again with --ckpt_path last" if refused else "is requeued"
    print(f"darkroom: job {number} {how}", file=sys.stderr)


def _preempted(number: str) -> bool:
    return re.search(r"\bPreemptTime=\d", _scontrol("show", "job", number)[0]) is not None


def _scontrol(*arguments: str) -> tuple[str, str]:
    """Run scontrol; return its output and, if it failed, its error."""
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    return done.stdout, done.stderr.strip() if done.returncode else ""
