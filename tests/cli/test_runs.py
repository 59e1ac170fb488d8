"""``darkroom runs``, and the record that a fit writes for it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from darkroom.callbacks.training.run_recorder import RunRecorder
from darkroom.cli.commands.runs import format_size
from darkroom.report.run import last_sign
from darkroom.runtime.records import run_record
from darkroom.runtime.records.run_record import (
    RunRecord,
    current_commit,
    describe_start,
    is_alive,
    process_start,
    read_record,
)


def test_runs_lists_fit_with_method_metric_and_state(darkroom: Callable, tiny_run: Path) -> None:
    listed = darkroom("runs", tiny_run.parents[1])
    assert listed.code == 0
    head, *lines = listed.out.splitlines()
    assert head.split() == ["run", "method", "data", "metric", "epochs", "state", "size"]
    line = next(line for line in lines if str(tiny_run) in line)
    assert "finished" in line
    [row] = [
        row for row in json.loads(darkroom("runs", tiny_run.parents[1], "--json").out) if row["run"] == str(tiny_run)
    ]
    assert row["state"] == "finished"
    assert row["epochs"] == row["max_epochs"]
    assert row["notes"] == []
    assert row["size"] > 1000


def test_fit_records_machine_versions_time_and_memory(tiny_run: Path) -> None:
    record = read_record(tiny_run)
    assert record is not None
    assert record.state == "finished"
    assert record.command.startswith("darkroom")
    assert record.seconds > 0
    assert record.parameters
    assert record.seed == 0
    assert record.peak_memory_mib is None or record.peak_memory_mib > 10
    assert record.versions is not None
    assert {"python", "torch", "darkroom"} <= record.versions.keys()
    assert record.steps == 2
    assert record.data is not None
    assert record.data.samples == {"train": 8, "val": 4}
    assert record.data.class_names[:2] == ["background", "circle"]
    assert record.data.image_shape == [3, 32, 32]
    assert "| samples, train | 8 |" in (tiny_run / "card.md").read_text()


def test_newest_run_is_first(darkroom: Callable, tmp_path: Path) -> None:
    for number in range(3):
        folder = tmp_path / f"runs/unet/{number}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("model: {class_path: UNet}")
        (folder / "metrics.csv").write_text("step,epoch,val/mIoU\n")
        os.utime(folder / "metrics.csv", (1000 + number % 2, 1000 + number % 2))
    order = [row["run"][-1] for row in json.loads(darkroom("runs", "--json").out)]
    assert order == ["1", "0", "2"]


def test_folder_without_runs_says_so(darkroom: Callable, tmp_path: Path) -> None:
    assert "does not exist" in darkroom("runs", "elsewhere").message
    assert darkroom("runs").out == "runs has no runs\n"
    (tmp_path / "runs").mkdir()
    assert darkroom("runs").out == "runs has no runs\n"


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage is exact elsewhere")
def test_peak_memory_is_that_of_the_process_and_not_of_its_parent() -> None:
    code = "from darkroom.runtime.records.run_record import peak_memory_of_process; print(peak_memory_of_process())"
    large = bytearray(400 * 2**20)
    large[:: 2**12] = b"x" * len(large[:: 2**12])  # touches every page
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 < float(done.stdout) < 200


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (1000, "0.977 KiB"), (5 * 2**20, "5 MiB"), (3 * 2**40, "3 TiB")]
)
def test_sizes_have_three_digits(size: int, text: str) -> None:
    assert format_size(size) == text


def test_record_of_another_process_with_the_same_number_is_not_alive() -> None:
    start = describe_start(["darkroom", "fit"])
    record = RunRecord(state="running", **start)
    assert is_alive(record)
    assert not is_alive(replace(record, state="finished"))
    if process_start(os.getpid()):
        assert not is_alive(replace(record, process_start=f"{record.process_start}0"))
    assert is_alive(replace(record, host="another machine"))


def test_command_is_recorded_without_secrets() -> None:
    arguments = [
        "bin/darkroom",
        "fit",
        "--logger.api_key",
        "abc",
        "--token=abc",
        "--url=https://me:abc@host/x",
        "--seed",
        "1",
    ]
    assert describe_start(arguments)["command"] == (
        "darkroom fit --logger.api_key '***' '--token=***' '--url=***' --seed 1"
    )
    assert "TOKEN" in describe_start(["train.py", "--token", "$TOKEN"])["command"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Repository of Git with one commit."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "a.txt").write_text("a")
    for arguments in (["init", "-q"], ["add", "a.txt"], [*identity, "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    return tmp_path


def test_commit_is_marked_if_files_differ_or_if_that_is_not_known(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = current_commit(repository)
    assert commit is not None
    assert len(commit) == 10
    (repository / "a.txt").write_text("b")
    assert current_commit(repository) == f"{commit}+"
    run = subprocess.run

    def slow(command: list[str], **options: object) -> object:
        if "status" in command:
            raise subprocess.TimeoutExpired(command, 5)
        return run(command, **options)

    monkeypatch.setattr(run_record.subprocess, "run", slow)
    assert current_commit(repository) == f"{commit}?"


def test_commit_is_read_while_the_user_commits(repository: Path) -> None:
    (repository / ".git/index.lock").touch()
    assert current_commit(repository)


def fit(model: LightningModule, folder: Path, **options: Any) -> RunRecord | None:
    """Fit two steps with a recorder; return the record."""
    options = {"max_epochs": 1, **options}
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[RunRecorder()],
        **options,
    )
    trainer.fit(model, DataLoader(torch.ones(2, 3)))
    return read_record(folder)


class Lazy(LightningModule):
    """Model whose first batch determines the shape of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.LazyLinear(1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).sum()

    def configure_optimizers(self) -> None:
        return None


def test_model_with_lazy_weights_is_recorded(tmp_path: Path) -> None:
    record = fit(Lazy(), tmp_path)
    assert record is not None
    assert (record.state, record.parameters) == ("finished", None)


def test_second_fit_of_a_run_adds_its_time_and_keeps_the_highest_memory(tmp_path: Path) -> None:
    first = fit(Lazy(), tmp_path)
    assert first is not None
    replace(first, seconds=100.0, peak_memory_mib=1e9, started="earlier").write(tmp_path)
    second = fit(Lazy(), tmp_path)
    assert second is not None
    assert (second.seconds >= 100.0, second.peak_memory_mib, second.started) == (True, 1e9, "earlier")


def test_fast_dev_run_writes_no_record(tmp_path: Path) -> None:
    assert fit(Lazy(), tmp_path, fast_dev_run=True) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "state"), [(OSError("disk full"), "failed"), (KeyboardInterrupt(), "stopped")])
def test_failed_fit_is_not_running(tmp_path: Path, error: BaseException, state: str) -> None:
    class Failing(Lazy):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            raise error

    with pytest.raises((OSError, SystemExit, KeyboardInterrupt)):
        fit(Failing(), tmp_path)
    record = read_record(tmp_path)
    assert record is not None
    assert record.state == state


def test_error_before_the_setup_of_callbacks_is_raised(tmp_path: Path) -> None:
    class Broken(Lazy):
        def prepare_data(self) -> None:
            raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        fit(Broken(), tmp_path)


def test_deleted_run_has_no_time(tmp_path: Path) -> None:
    assert last_sign(tmp_path / "deleted") == 0
