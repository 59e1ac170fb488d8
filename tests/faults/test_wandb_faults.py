"""Unreachable, slow or killed W&B: the run continues, and its data can be uploaded later."""

import csv
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import CONFIGS
from tests.fakes.commands import EVERY_STEP, TINY, Command, inject_fault
from tests.fakes.trouble import wait_until
from tests.fakes.wandb_server import WandbServer, wandb_processes
from tests.runtime.test_wandb import records

WANDB = ["--config", CONFIGS / "logger/wandb.yaml"]


@pytest.fixture(autouse=True)
def _logged_in(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Set a key and short timeouts; afterwards check that no thread of W&B logged an error."""
    import wandb

    wandb.teardown()  # its settings are those of an earlier test
    for name, value in {
        "WANDB_API_KEY": "0" * 40,
        "WANDB_INIT_TIMEOUT": "1",
        "WANDB_FINISH_TIMEOUT": "1",
        "WANDB__DISABLE_VIEWER": "true",  # it would wait ten seconds for the user name
    }.items():
        monkeypatch.setenv(name, value)
    yield
    records = caplog.get_records("setup") + caplog.get_records("call")
    assert not [record.exc_text for record in records if record.name == "wandb.sdk.lib.asyncio_manager"]


def read_wandb_files(folders: list[Path]) -> tuple[list[int], list[int], set[str]]:
    """Read W&B's files, oldest first: steps of the losses, exit codes and run ids."""
    steps, exits, ids = [], [], set()
    for folder in folders:
        for record in records(next(folder.glob("*.wandb"))):
            values = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if "train/loss" in values:
                steps.append(int(values["trainer/global_step"]))
            if record.WhichOneof("record_type") == "exit":
                exits.append(record.exit.exit_code)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
    return steps, exits, ids


def kill_options(whom: str, step: int) -> list[str]:
    killer = "tests.fakes.wandb_server.KillOnceTracked"
    return [f"--trainer.callbacks+={killer}", f"--trainer.callbacks.step={step}", f"--trainer.callbacks.whom={whom}"]


def runs_of_wandb(run: str = "runs/tiny/0") -> list[Path]:
    return sorted(Path(run, "wandb").glob("*run-*-*"), key=lambda path: path.name.removeprefix("offline-"))


def assert_metrics_complete(run: str = "runs/tiny/0") -> None:
    assert Path(run, "checkpoints/last.ckpt").is_file()
    rows = list(csv.DictReader(Path(run, "metrics.csv").open()))
    assert [row["step"] for row in rows if row["train/loss"]] == ["0", "1"]
    assert any(row["val/mIoU"] for row in rows)


@pytest.mark.fault("W&B does not answer at the start: refused, silent, unknown")
@pytest.mark.parametrize("fault", ["refused", "silent", "unknown"])
def test_unreachable_wandb_at_start_does_not_stop_fit(
    darkroom: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    with ExitStack() as stack:
        url = "http://no-such-host.invalid"
        if fault == "refused":
            free = stack.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))  # a bound port without listener
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        if fault == "silent":
            url = stack.enter_context(WandbServer(silent_from="anything")).url
        monkeypatch.setenv("WANDB_BASE_URL", url)
        outcome = darkroom("fit", *tiny, *WANDB)
    assert outcome.code == 0
    assert outcome.err.count("W&B did not start the run") == 1
    assert "wandb sync runs/tiny/0/wandb/offline-run-*" in outcome.err
    assert_metrics_complete()
    steps, exits, ids = read_wandb_files(runs_of_wandb())
    assert (steps, exits, len(ids)) == ([0, 1], [0], 1)


@pytest.mark.fault("W&B dies or falls silent in the middle of a fit")
@pytest.mark.parametrize("fault", ["dies", "silent"])
def test_unreachable_wandb_during_fit_does_not_stop_it(
    darkroom: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    with ExitStack() as stack:
        server = WandbServer(**{"dies_at" if fault == "dies" else "silent_from": "file_stream"})
        if fault == "silent":
            stack.enter_context(server)
        else:
            server.__enter__()
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        outcome = darkroom("fit", *tiny, *WANDB)
    assert outcome.code == 0
    assert "W&B did not upload everything" in outcome.err
    assert "wandb sync --include-online runs/tiny/0/wandb/*run-*" in outcome.err
    assert_metrics_complete()
    steps, exits, ids = read_wandb_files(runs_of_wandb())
    assert (steps, exits, len(ids)) == ([0, 1], [0], 1)


@pytest.mark.fault("W&B's own process dies in the middle of a fit")
def test_killed_wandb_process_loses_no_metrics(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check in a separate process, because W&B logs an error for each line it sends to its dead process."""
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        fit = Command("fit", *tiny, *WANDB, *kill_options("wandb", step=1))
        assert fit.wait() == 0, fit.text
        command = [sys.executable, "-m", "wandb", "sync", "--include-online", *map(str, runs_of_wandb())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert fit.text.count("W&B's process ended") == 1
    assert_metrics_complete()
    steps, exits, ids = read_wandb_files(runs_of_wandb())
    assert (exits, len(ids), len(runs_of_wandb())) == ([0], 1, 2)
    assert steps in ([0, 1], [0])  # data in transfer at the kill may be lost
    assert done.returncode == 0, done.stderr
    assert [row["_step"] for row in server.history] == list(range(len(server.history)))
    assert [row["trainer/global_step"] for row in server.history if "train/loss" in row] == steps
    assert any("val/loss" in row for row in server.history)  # logged afterwards
    assert server.exit_codes[-1] == 0


FAULTS = {
    "none": ([], 0),
    "an exception": (["--trainer.callbacks+=tests.fakes.parts.FailAt", "--trainer.callbacks.step=3"], None),
    "NaN": (["--model.loss", "tests.fakes.parts.NanAt", "--model.loss.call", "3"], 1),
    "SIGTERM": (inject_fault("SignalAt", step=3, name="SIGTERM"), 143),
    "SIGINT": (inject_fault("SignalAt", step=3, name="SIGINT"), 130),
    "out of memory": (inject_fault("AskForMemoryAt", step=3), 1),
}


@pytest.mark.fault("W&B has a run marked failed: exception, NaN, SIGTERM, SIGINT, out of memory")
@pytest.mark.parametrize("fault", FAULTS)
def test_failed_run_is_marked_failed(darkroom: Callable, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    arguments, code = FAULTS[fault]
    if code is None:
        with pytest.raises(RuntimeError, match="on purpose"):
            darkroom(*TINY, *WANDB, *arguments)
    else:
        assert darkroom(*TINY, *WANDB, *arguments).code == code
    steps, exits, _ = read_wandb_files(runs_of_wandb("runs/it/0"))
    assert exits == [1 if code is None else code]
    assert steps  # earlier values are saved


@pytest.mark.fault("kill -9 of a run that W&B follows")
def test_resumed_run_keeps_wandb_id(darkroom: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    command = Command(*TINY, *EVERY_STEP, *WANDB, *kill_options("run", step=7))
    assert command.wait() == -9
    wait_until(lambda: not wandb_processes(command.process.pid))  # it exits when its client is gone
    (before,) = runs_of_wandb("runs/it/0")
    steps, exits, ids = read_wandb_files([before])
    assert steps[-1] < 7
    assert exits == []

    assert darkroom(*TINY, *WANDB, "--ckpt_path", "last").code == 0
    (after,) = set(runs_of_wandb("runs/it/0")) - {before}
    more, exits, same = read_wandb_files([after])
    assert (exits, same) == ([0], ids)
    assert (more[0] > steps[-1], more[-1]) == (True, 14)


@pytest.mark.slow
def test_empty_wandb_folder_is_removed_on_resume(darkroom: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the empty file of a run killed in its first second, at which `wandb sync` would stop."""
    monkeypatch.delenv("WANDB_API_KEY")
    assert darkroom(*TINY, *WANDB, "--trainer.max_epochs", 1).code == 0
    (first,) = runs_of_wandb("runs/it/0")
    empty = Path("runs/it/0/wandb/offline-run-20990101_000000-abcd1234")
    empty.mkdir()
    (empty / "run-abcd1234.wandb").write_bytes(b":W&B\xe1\xbe\x00")
    assert darkroom(*TINY, *WANDB, "--ckpt_path", "last").code == 0
    assert not empty.exists()
    # Not by order: on a fast machine both names have the same second.
    (resumed,) = set(runs_of_wandb("runs/it/0")) - {first}
    assert read_wandb_files([resumed])[2] == {"abcd1234"}
