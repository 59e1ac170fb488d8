"""What Slurm or torchrun, having started this process, says of its job, and how the job goes on after a stop."""

import os
import re
import subprocess
import sys

WARNED, TERMINATED = 128 + 10, 128 + 15  # exit codes after SIGUSR1 and SIGTERM, where there is Slurm


def job() -> str | None:
    """A name that the processes of a job share, and its later starts, and no other job has; None outside of a job."""
    return _named() or _of_slurm() or (f"torchrun-{_rendezvous()}" if _rendezvous() else None)


def may_be_restarted() -> bool:
    """Whether a run that bears this job's name was begun by an earlier start of it.

    Slurm says so. torchrun counts only what happened on this machine, so its id, which no other job has, stands for it;
    and so does a name that was given. Only where several commands of one start bear the same name, it does not.
    """
    shared = _of_slurm() is not None and "SLURM_STEP_ID" not in os.environ
    counts = [os.environ.get(name, "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")]
    return any(count != "0" for count in counts) or bool(_named() or (_rendezvous() and not shared))


def _named() -> str | None:
    """What the user calls the job, for a scheduler that is not known here."""
    return os.environ.get("DARKROOM_JOB") or None


def _of_slurm() -> str | None:
    """The job's number, or the array's and the task's, and the step, which every start counts anew."""
    number, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        number = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    return f"slurm-{number}.{os.environ.get('SLURM_STEP_ID', 'batch')}" if number else None


def _rendezvous() -> str | None:
    """The ``--rdzv-id`` that torchrun was given, or made itself for one machine."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if run_id == "none" else run_id


def requeue(code: int) -> None:
    """Puts a Slurm job whose fit was stopped back into the queue, if it is to go on; the last act, for it ends the process.

    That is so after SIGUSR1, which announces the end of its time, and where it was pre-empted: Slurm itself requeues a
    pre-empted job only if it is still there when its grace has passed, and one that has saved and ended is not. A job that
    its user cancels gets SIGTERM as well, and stays cancelled.

    Args:
        code: the fit's exit code, 128 and the number of the signal that stopped it.
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
    """What it says, and what it complains of."""
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    return done.stdout, done.stderr.strip() if done.returncode else ""
