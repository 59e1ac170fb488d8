"""Real Slurm: a run interrupted in three ways, on one and two nodes, equals an uninterrupted run."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.jobs import FIT, ROOT, TWO_RANKS_HERE, assert_same_end, last_of

HERE = Path(__file__).parent
HOLDS = [3, 10, 18]  # the steps of the interruptions; an epoch has eight
HOLD = ["--trainer.callbacks+=tests.cluster.jobs.HoldForSignal", f"--trainer.callbacks.steps={HOLDS}"]
pytestmark = pytest.mark.cluster


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.fixture
def _cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a Slurm cluster of two nodes for the duration of a test."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("Slurm's daemons are started by root, on Linux")
    absent = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
    if absent:
        pytest.skip(f"no {', '.join(absent)}: tests/cluster/slurm_one_host.sh install (Debian, as root)")
    script, folder = HERE / "slurm_one_host.sh", tmp_path / "slurm"
    folder.mkdir()
    command = tmp_path / "bin/darkroom"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m darkroom "$@"\n')
    command.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{command.parent}:{os.environ['PATH']}"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    started = subprocess.run(["bash", script, "start", folder], capture_output=True, text=True, timeout=180)
    try:
        if started.returncode:
            pytest.skip(f"Slurm does not start here: {started.stderr.strip()[-500:]}")
        yield
    finally:
        subprocess.run(["bash", script, "stop", folder], capture_output=True, timeout=60)


class Job:
    """Fit on two ranks, submitted with sbatch."""

    def __init__(self, *argv: object, sbatch: str) -> None:
        script = str(ROOT / "configs/slurm/job.sh")
        self.number = slurm("sbatch", "--parsable", "--output=job-%j.txt", *sbatch.split(), script, *map(str, argv))

    def shown(self) -> str:
        return slurm("scontrol", "show", "job", self.number)

    def has_state(self, state: str, restarts: int) -> bool:
        shown = self.shown()
        return f"JobState={state} " in shown and f"Restarts={restarts} " in shown

    def wait(self, what: Callable[[], bool]) -> None:
        """Wait for a condition; fail with the job, its console and the end of Slurm's log if it fails or lasts too long."""
        limit = time.monotonic() + 240
        while not what():
            assert "JobState=FAILED " not in self.shown(), self.report()
            assert time.monotonic() < limit, self.report()
            time.sleep(0.2)

    def report(self) -> str:
        files = [Path(f"job-{self.number}.txt"), Path(os.environ["SLURM_CONF"]).parent / "slurmctld.log"]
        ends = [file.read_text().splitlines()[-60:] for file in files if file.is_file()]
        return "\n".join([self.shown(), *(line for end in ends for line in end)])

    def wait_until_held(self, step: int) -> None:
        self.wait(lambda: all(Path(f"held-{step}-{rank}").is_file() for rank in range(2)))

    def start_again(self) -> None:
        """Start a requeued job without Slurm's delay of two minutes.

        Slurm compares the start with the end of the first start in whole seconds. A start in the same second fails with
        "Killing non-startable batch job: Job credential revoked".
        """
        slurm("scontrol", "update", f"JobId={self.number}", "StartTime=now+2")


@pytest.mark.fault("Slurm: end of time, scancel, pre-emption")
@pytest.mark.usefixtures("_cluster")
def test_slurm_timeout_cancel_and_preemption_do_not_change_run(darkroom: Callable) -> None:
    assert darkroom(*FIT, *TWO_RANKS_HERE, "--experiment", "whole").code == 0
    command = [*FIT, *HOLD, "--config", ROOT / "configs/trainer/slurm.yaml", "--experiment", "stopped"]

    # One node, time limit signal: saved, requeued, resumed.
    job = Job(*command, sbatch="--ntasks-per-node=2")
    job.wait_until_held(HOLDS[0])
    slurm("scancel", "--signal=USR1", job.number)
    job.wait(lambda: job.has_state("PENDING", 1))
    assert HOLDS[0] < last_of("runs/stopped/0")["global_step"] <= HOLDS[0] + 2
    job.start_again()
    job.wait_until_held(HOLDS[1])

    # Cancelled: saved, and not requeued.
    slurm("scancel", job.number)
    job.wait(lambda: job.has_state("CANCELLED", 1) and not slurm("squeue", "--noheader"))
    assert HOLDS[1] < last_of("runs/stopped/0")["global_step"] <= HOLDS[1] + 2

    # A second job resumes the run on two nodes. A job of higher priority preempts it: saved, requeued, resumed.
    job = Job(*command, "--ckpt_path", "last", sbatch="--nodes=2 --ntasks-per-node=1")
    job.wait_until_held(HOLDS[2])
    slurm("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    job.wait(lambda: job.has_state("PENDING", 1))
    assert HOLDS[2] < last_of("runs/stopped/0")["global_step"] <= HOLDS[2] + 2
    job.start_again()
    job.wait(lambda: job.has_state("COMPLETED", 1))

    assert os.listdir("runs/stopped") == ["0"]
    assert_same_end("runs/whole/0", "runs/stopped/0")
