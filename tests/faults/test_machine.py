"""Faults of the machine: full disk, read-only folder, out of memory, killed worker."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.runtime.error_messages import explain_system_error
from tests.fakes.commands import EVERY_STEP, TINY, Command, inject_fault

LAST = Path("runs/it/0/checkpoints/last.ckpt")


def step_of(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)["global_step"]


def assert_message(command: Command, *words: str) -> None:
    """Assert one message without traceback that contains the words."""
    assert "Traceback" not in command.text, command.text
    for word in words:
        assert word in command.text, command.text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of four megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode
    )
    if not mounted:
        pytest.skip("a disk of its own needs the right to mount one (root)")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("left", [0, 12288], ids=["nothing", "half-a-checkpoint"])
@pytest.mark.fault("a disk that fills up within a fit, before a checkpoint or in the middle of it")
def test_full_disk_keeps_last_checkpoint(small_disk: Path, left: int) -> None:
    where = ("--runs_dir", small_disk)
    command = Command(*TINY, *EVERY_STEP, *where, *inject_fault("FillDiskAt", step=7, folder=small_disk, left=left))
    assert command.wait() == 1
    assert_message(command, "No space left on device", "last.ckpt is intact")
    last = small_disk / LAST.relative_to("runs")
    assert step_of(last) == 7
    assert not list(last.parent.glob("*.part"))
    (small_disk / "filling").unlink()
    assert Command(*TINY, *EVERY_STEP, *where, "--ckpt_path", "last").wait() == 0
    assert step_of(last) == 15


@pytest.mark.fault("a disk that is full from the start")
def test_full_disk_at_start_is_reported(small_disk: Path) -> None:
    from tests.fakes.trouble import fill

    fill(small_disk)
    command = Command(*TINY, "--runs_dir", small_disk)
    assert command.wait() == 1
    assert_message(command, "no space left on the disk for", "--runs_dir")


@pytest.mark.parametrize("where", ["checkpoint", "metrics"])
@pytest.mark.fault("no space for a checkpoint, or for metrics.csv")
def test_failed_write_of_checkpoint_or_metrics_is_reported(where: str) -> None:
    """Check the same without a mounted disk, by a failing write call."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def before() -> None:
        from darkroom.runtime import checkpoint_io, csv_logger

        module, name = (checkpoint_io.torch, "save") if where == "checkpoint" else (csv_logger.csv, "DictWriter")
        calls, function = iter(range(6)), getattr(module, name)
        setattr(module, name, lambda *a, **k: full() if next(calls, None) is None else function(*a, **k))

    command = Command(*TINY, *EVERY_STEP, before=before)
    assert command.wait() == 1
    assert_message(command, "o space left on", "last.ckpt is intact")
    assert 0 < step_of(LAST) < 15
    assert Command(*TINY, *EVERY_STEP, "--ckpt_path", "last").wait() == 0


@pytest.mark.fault("a folder that must not be written")
def test_read_only_folder_is_reported() -> None:
    if not Path("/sys").is_dir():
        pytest.skip("/sys, which even root cannot write, does not exist")
    command = Command(*TINY, "--runs_dir", "/sys/darkroom")
    assert command.wait() == 1
    assert_message(command, "/sys/darkroom", "cannot be opened", "--runs_dir")


@pytest.mark.fault("a file instead of a folder")
def test_runs_dir_that_is_a_file_is_reported(darkroom: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = darkroom(*TINY, "--runs_dir", tmp_path / "file")
    assert outcome.code == 1
    assert "cannot be created (Not a directory); choose another --runs_dir" in outcome.message


@pytest.mark.fault("a resumed fit that fails in or before its first step")
def test_failing_resume_keeps_checkpoint(darkroom: Callable) -> None:
    assert darkroom(*TINY).code == 0
    before = LAST.read_bytes()
    assert darkroom(*TINY, "--ckpt_path", "last", "--trainer.max_epochs", "2").code != 0
    assert LAST.read_bytes() == before
    again = ("--ckpt_path", "last", "--trainer.max_epochs", "5")
    assert darkroom(*TINY, *again, *inject_fault("AskForMemoryAt", step=15)).code == 1
    assert LAST.read_bytes() == before


@pytest.mark.fault("a process that loads the data is killed")
def test_killed_loader_process_is_reported() -> None:
    options = ("--data.num_workers", "2", *EVERY_STEP)
    command = Command(*TINY, *options, *inject_fault("KillWorkerAt", step=7))
    assert command.wait() == 1
    assert_message(command, "a data worker process (pid", "data.num_workers", "last.ckpt is intact")
    assert step_of(LAST) >= 6
    assert Command(*TINY, *options, "--ckpt_path", "last").wait() == 0


@pytest.mark.fault("out of memory in a step")
def test_out_of_memory_is_reported() -> None:
    command = Command(*TINY, *EVERY_STEP, *inject_fault("AskForMemoryAt", step=7))
    assert command.wait() == 1
    assert_message(command, "the machine's memory is full", "data.batch_size", "last.ckpt is intact")
    assert step_of(LAST) == 7
    assert Command(*TINY, *EVERY_STEP, "--ckpt_path", "last").wait() == 0


@pytest.mark.fault("out of a GPU's memory (its error, without a GPU)")
def test_gpu_memory_and_machine_memory_have_different_messages() -> None:
    message = explain_system_error(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of ...")
    )
    assert message is not None
    assert message.startswith("the GPU's memory is full: tried to allocate 2.50 GiB; lower data.batch_size")


def test_other_errors_keep_their_message() -> None:
    for error in (RuntimeError("shapes do not match"), OSError(errno.ENOENT, "No such file"), ValueError("it")):
        assert explain_system_error(error) is None


@pytest.mark.fault("weights that a step made infinite, the loss still finite")
def test_non_finite_weights_are_not_saved(darkroom: Callable) -> None:
    outcome = darkroom(*TINY, *EVERY_STEP, *inject_fault("BreakWeightsAt", step=7))
    assert outcome.code == 1
    assert "weights are not finite (network.layers.0.weight, 1 in all) after step 8" in outcome.message
    for name in ("last", "best"):
        saved = torch.load(LAST.with_name(f"{name}.ckpt"), weights_only=True)
        assert all(value.isfinite().all() for value in saved["state_dict"].values())
    assert step_of(LAST) == 7
    assert darkroom(*TINY, *EVERY_STEP, "--ckpt_path", "last").code == 0


@pytest.mark.fault("a loss that is not a number")
def test_non_finite_loss_is_not_saved(darkroom: Callable) -> None:
    broken = ("--model.loss", "tests.fakes.parts.NanAt", "--model.loss.call", "7")
    outcome = darkroom(*TINY, *EVERY_STEP, *broken)
    assert outcome.code == 1
    assert "the loss is not finite since batch" in outcome.message
    saved = torch.load(LAST, weights_only=True)
    assert saved["global_step"] < 8
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
