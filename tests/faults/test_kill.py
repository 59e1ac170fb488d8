"""kill -9 at any time: the same command with ``--ckpt_path last`` ends with the same weights and metrics."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.commands import EVERY_STEP, TINY, Command, inject_fault
from tests.faults.conftest import End, assert_same


@pytest.mark.fault("kill -9 at random moments, five times in one fit")
def test_repeated_kills_do_not_change_result(uninterrupted: End) -> None:
    began = time.monotonic()
    assert Command(*TINY, *EVERY_STEP, "--experiment", "timed").wait() == 0
    needed = time.monotonic() - began
    draw, codes = random.Random(8), []
    for attempt in range(5):
        command = Command(*TINY, *EVERY_STEP, *(["--ckpt_path", "last"] if Path("runs/it").is_dir() else []))
        time.sleep(draw.uniform(0.2, 1.0) * needed)
        command.kill()
        codes.append(command.wait())
        assert codes[-1] in (-9, 0), f"{attempt}: {command.text}"
        if codes[-1] == 0:
            break
    assert -9 in codes
    if codes[-1] != 0:
        last = Command(*TINY, *EVERY_STEP, *(["--ckpt_path", "last"] if Path("runs/it").is_dir() else []))
        assert last.wait() == 0, last.text
    assert [path.name for path in Path("runs/it").iterdir()] == ["0"]
    assert_same(uninterrupted)


def kill_self(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(checkpoint: dict, file: Any) -> None:
    file.write(b"PK\3\4" + bytes(1000))
    file.flush()
    kill_self()


def nth(function: Callable, n: int, instead: Callable) -> Callable:
    """Return the function with another one instead at its nth call."""
    calls = iter(range(n))

    def call(*args: Any, **kwargs: Any) -> Any:
        return (instead if next(calls, None) == n - 1 else function)(*args, **kwargs)

    return call


@pytest.mark.parametrize(
    ("moment", "name", "instead"),
    [
        pytest.param("half of the file is written", "torch.save", half_written, id="half-written"),
        pytest.param("the file is not synced", "os.fsync", kill_self, id="not-synced"),
        pytest.param("the file is not renamed", "os.replace", kill_self, id="not-named"),
    ],
)
@pytest.mark.fault("kill -9 while a checkpoint is written")
def test_kill_while_writing_checkpoint(uninterrupted: End, moment: str, name: str, instead: Callable) -> None:
    import darkroom.runtime.checkpoint_io as written

    module, function = name.split(".")
    # fsync is called for the file and for its folder, and best.ckpt is written as well.
    count = 14 if function == "fsync" else 7

    def before() -> None:
        setattr(getattr(written, module), function, nth(getattr(getattr(written, module), function), count, instead))

    command = Command(*TINY, *EVERY_STEP, before=before)
    assert command.wait() == -9, moment
    found = torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)
    assert 0 < found["global_step"] < 15
    assert Command(*TINY, *EVERY_STEP, "--ckpt_path", "last").wait() == 0
    assert_same(uninterrupted)


@pytest.mark.fault("kill -9 within a validation")
def test_kill_during_validation(uninterrupted: End) -> None:
    """Check that the resumed fit runs the validation again, although its last step is in the checkpoint."""
    command = Command(*TINY, *EVERY_STEP, *inject_fault("SignalAt", step=10, name="SIGKILL", validating=True))
    assert command.wait() == -9
    assert Command(*TINY, *EVERY_STEP, "--ckpt_path", "last").wait() == 0
    assert_same(uninterrupted)


@pytest.mark.fault("kill -9 between the last checkpoint and the row of its metrics")
def test_kill_before_last_row(uninterrupted: End) -> None:
    assert Command(*TINY).wait() == 0
    logged = torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["logged"]
    assert logged["waiting"][0]
    metrics = Path("runs/it/0/metrics.csv")
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[: 1 + logged["rows"]]))
    for _ in range(2):  # the second one finds the row
        assert Command(*TINY, "--ckpt_path", "last").wait() == 0
        assert_same(uninterrupted)


@pytest.mark.fault("kill -9 with processes that load the data: none is left, and none of their batches is lost")
def test_kill_with_loader_processes(uninterrupted: End) -> None:
    options = (*TINY, *EVERY_STEP, "--data.num_workers", "2")
    assert Command(*options, *inject_fault("SignalAt", step=8, name="SIGKILL")).wait() == -9
    assert Command(*options, "--ckpt_path", "last").wait() == 0
    assert_same(uninterrupted)


@pytest.mark.fault("kill -9 before the first checkpoint")
def test_kill_before_first_checkpoint(uninterrupted: End) -> None:
    assert Command(*TINY, *inject_fault("SignalAt", step=3, name="SIGKILL")).wait() == -9
    assert Path("runs/it/0").is_dir()
    command = Command(*TINY, "--ckpt_path", "last")
    assert command.wait() == 0
    assert "has no checkpoint yet" in command.text
    assert_same(uninterrupted)
