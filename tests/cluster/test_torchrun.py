"""torchrun restarts a killed rank and the fit resumes without intervention."""

import os
import subprocess
import sys

import pytest

from tests.cluster.jobs import FIT, ROOT, TWO_RANKS_HERE, assert_same_end

KILL = ["--trainer.callbacks+=tests.cluster.jobs.KillOneRank", "--trainer.callbacks.step=11"]


@pytest.mark.cluster
@pytest.mark.fault("kill -9 of one rank under torchrun")
def test_torchrun_restart_resumes_fit(darkroom) -> None:
    assert darkroom(*FIT, *TWO_RANKS_HERE, "--experiment", "whole").code == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    # Otherwise the restarted process group waits for the addresses of the first start, still in the agent's store.
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [*torchrun, "-m", "darkroom", *FIT, *KILL, "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    done = subprocess.run(
        [*command, "--experiment", "killed"], env=os.environ | environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr  # of the rank
    assert os.listdir("runs/killed") == ["0"]
    assert_same_end("runs/whole/0", "runs/killed/0")
