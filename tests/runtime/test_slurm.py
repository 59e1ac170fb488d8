"""Cluster jobs: name, run to resume after a restart, and requeueing."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import distributed

from darkroom.runtime import slurm
from darkroom.runtime.lightning_compat import start_together
from tests.fakes.ranks import on_two_ranks

SCONTROL = """#!/bin/sh
echo "$@" >> asked
if [ "$1" = show ]; then echo "   PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=$PREEMPTED"; exit; fi
echo "$COMPLAINT" >&2
[ -z "$COMPLAINT" ]
"""


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_", "DARKROOM_"))]:
        monkeypatch.delenv(name)


def set_environment(monkeypatch: pytest.MonkeyPatch, **environment: object) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("environment", "name", "may_be_restarted"),
    [
        ({}, None, False),
        ({"SLURM_JOB_ID": 7}, "slurm-7.batch", False),
        ({"SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0}, "slurm-7.0", False),
        ({"SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0, "SLURM_RESTART_COUNT": 1}, "slurm-7.0", True),
        ({"SLURM_JOB_ID": 9, "SLURM_ARRAY_JOB_ID": 7, "SLURM_ARRAY_TASK_ID": 2}, "slurm-7_2.batch", False),
        ({"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": 0}, None, False),
        ({"TORCHELASTIC_RUN_ID": "vae", "TORCHELASTIC_RESTART_COUNT": 0}, "torchrun-vae", True),
        ({"SLURM_JOB_ID": 7, "TORCHELASTIC_RUN_ID": "vae", "TORCHELASTIC_RESTART_COUNT": 0}, "slurm-7.batch", False),
        ({"SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0, "TORCHELASTIC_RUN_ID": "vae"}, "slurm-7.0", True),
        ({"DARKROOM_JOB": "a1b2", "TORCHELASTIC_RUN_ID": "vae"}, "a1b2", True),
    ],
)
def test_job_name_and_restart_are_read_from_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict, name: str | None, may_be_restarted: bool
) -> None:
    set_environment(monkeypatch, **environment)
    assert slurm.job_name() == name
    assert slurm.may_be_restarted() is may_be_restarted


def steps(run: str) -> list[int]:
    return [int(row["step"]) for row in csv.DictReader(Path(run, "metrics.csv").open()) if row["train/loss"]]


@pytest.mark.slow
def test_restarted_job_resumes_its_run(darkroom: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, SLURM_JOB_ID=7, SLURM_STEP_ID=0)
    assert darkroom("fit", *tiny).code == 0
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert darkroom("fit", *tiny).code == 0  # another job starts another run
    set_environment(monkeypatch, SLURM_JOB_ID=7, SLURM_RESTART_COUNT=1)
    assert darkroom("fit", *tiny, "--trainer.max_epochs", "2").code == 0
    assert sorted(os.listdir("runs/tiny")) == ["0", "1"]
    assert steps("runs/tiny/0") == [0, 1, 2, 3]
    assert steps("runs/tiny/1") == [0, 1]


def test_restarted_job_without_checkpoint_reuses_folder(
    darkroom: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, DARKROOM_JOB="a1b2")
    failing = ["--trainer.callbacks+=tests.fakes.parts.FailAt", "--trainer.callbacks.step=1"]
    with pytest.raises(RuntimeError, match="on purpose"):
        darkroom("fit", *tiny, *failing, "--last_checkpoint.save_on_exception", "false")
    assert not Path("runs/tiny/0/checkpoints/last.ckpt").exists()
    assert darkroom("fit", *tiny).code == 0
    assert os.listdir("runs/tiny") == ["0"]
    assert steps("runs/tiny/0") == [0, 1]


def test_failed_start_leaves_no_files(darkroom: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, DARKROOM_JOB="a1b2")
    assert darkroom("fit", *tiny, "--model.num_classes", "3").code == 2
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("code", "preempted", "requeued"),
    [
        (138, "None", True),  # time limit reached
        (143, "2026-01-01T00:00:10", True),
        (143, "None", False),  # cancelled by the user
        (130, "2026-01-01T00:00:10", False),
        (1, "2026-01-01T00:00:10", False),
        (0, "None", False),
    ],
)
def test_requeue_depends_on_exit_code_and_preemption(
    monkeypatch: pytest.MonkeyPatch, capfd: Any, code: int, preempted: str, requeued: bool
) -> None:
    Path("scontrol").write_text(SCONTROL)
    Path("scontrol").chmod(0o755)
    set_environment(
        monkeypatch, SLURM_JOB_ID=7, PREEMPTED=preempted, COMPLAINT="", PATH=f"{Path.cwd()}:{os.environ['PATH']}"
    )
    slurm.requeue(code)
    asked = Path("asked").read_text().splitlines() if Path("asked").exists() else []
    assert ("requeue 7" in asked) is requeued
    assert ("job 7 is requeued" in capfd.readouterr().err) is requeued


@pytest.mark.parametrize("there", [True, False])
def test_failed_requeue_names_resume_command(monkeypatch: pytest.MonkeyPatch, capfd: Any, there: bool) -> None:
    if there:
        Path("scontrol").write_text(SCONTROL)
        Path("scontrol").chmod(0o755)
    set_environment(monkeypatch, SLURM_JOB_ID=7, COMPLAINT="Requested operation is disabled", PATH=f"{Path.cwd()}:/bin")
    if not there:
        monkeypatch.setenv("PATH", str(Path.cwd()))
    slurm.requeue(138)
    message = capfd.readouterr().err
    assert ("operation is disabled" if there else "No such file") in message
    assert "--ckpt_path last" in message


def _load_together(rank: int, folder: Path) -> list[str | None]:
    """Return the checkpoint that each rank loads when only rank 0 has found it."""

    def broadcast(value: object) -> object:
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    loaded: list[str | None] = []
    connector = SimpleNamespace(resume_start=lambda path, weights_only: loaded.append(path))
    trainer = SimpleNamespace(_checkpoint_connector=connector, strategy=SimpleNamespace(broadcast=broadcast))
    start_together(trainer)
    connector.resume_start("runs/x/0/checkpoints/last.ckpt" if rank == 0 else None, weights_only=True)
    return loaded


def test_all_ranks_load_checkpoint_of_rank_0(tmp_path: Path) -> None:
    assert on_two_ranks(_load_together, tmp_path) == [["runs/x/0/checkpoints/last.ckpt"]] * 2
