"""What Slurm or torchrun, having started this process, says of its job, and how the job goes on after a stop."""

import os
import re
import subprocess
import sys

from lightning.pytorch.utilities.rank_zero import rank_zero_only

WARNED, TERMINATED = 128 + 10, 128 + 15  # exit codes after SIGUSR1 and SIGTERM, where there is Slurm


def job() -> str | None:
    """A name that the processes of a job share, and its later starts; no other job has it. None outside of a job.

    ``DARKROOM_JOB`` gives it for a scheduler that is not known here, such as Kubernetes.
    """
    say = os.environ.get
    if say("DARKROOM_JOB"):
        return say("DARKROOM_JOB")
    if say("SLURM_JOB_ID"):
        number = f"{say('SLURM_ARRAY_JOB_ID')}_{say('SLURM_ARRAY_TASK_ID')}" if say("SLURM_ARRAY_JOB_ID") else None
        return f"slurm-{number or say('SLURM_JOB_ID')}.{say('SLURM_STEP_ID', 'batch')}"  # a restart counts steps anew
    return f"torchrun-{say('TORCHELASTIC_RUN_ID')}" if say("TORCHELASTIC_RUN_ID", "none") != "none" else None


def restarted() -> bool:
    """Whether an earlier start of this job may have begun a run; with ``DARKROOM_JOB`` every start may be a later one."""
    counts = [os.environ.get(name, "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")]
    return "DARKROOM_JOB" in os.environ or any(count != "0" for count in counts)


@rank_zero_only
def requeue(code: int) -> None:
    """Puts a Slurm job whose fit was stopped back into the queue, if it is to go on; the last act, for it ends the process.

    That is so after SIGUSR1, which announces the end of its time, and where it was pre-empted: Slurm itself requeues a
    pre-empted job only if it is still there when its grace has passed, and one that has saved and ended is not. A job that
    its user cancels gets SIGTERM as well, and stays cancelled.

    Args:
        code: the fit's exit code, 128 and the number of the signal that stopped it.
    """
    number = os.environ.get("SLURM_JOB_ID")
    if number is None or not (code == WARNED or (code == TERMINATED and _preempted(number))):
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
