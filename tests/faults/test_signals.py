"""SIGTERM, Ctrl-C and SIGUSR1: the step is finished and saved, the exit code names the signal, and the fit can resume."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.commands import EVERY_STEP, NOISY, TINY, Command, inject_fault, on_two_ranks
from tests.fakes.trouble import wait_until
from tests.faults.conftest import End, assert_same, end_of


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
@pytest.mark.fault("SIGTERM, Ctrl-C or SIGUSR1 in a step")
def test_signal_saves_checkpoint_and_fit_resumes(uninterrupted: End, name: str, code: int) -> None:
    # The loss of step 11 is logged just when the fit ends.
    command = Command(*TINY, *inject_fault("SignalAt", step=11, name=name))
    assert command.wait() == code
    assert "stopping after this step" in command.text
    assert "last.ckpt is intact; the same command" in command.text
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 12
    assert Command(*TINY, "--ckpt_path", "last").wait() == 0
    assert_same(uninterrupted)


@pytest.mark.fault("SIGTERM within a validation, which is finished first")
def test_signal_during_validation_finishes_it_first(uninterrupted: End) -> None:
    command = Command(*TINY, *inject_fault("SignalAt", step=5, name="SIGTERM", validating=True))
    assert command.wait() == 143
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    assert Command(*TINY, "--ckpt_path", "last").wait() == 0
    assert_same(uninterrupted)


@pytest.mark.fault("a second signal: the end at once, with the checkpoint before")
def test_second_signal_exits_immediately() -> None:
    command = Command(*TINY, *EVERY_STEP, *inject_fault("SignalAt", step=7, name="SIGINT", times=2))
    assert command.wait() == 130
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 7


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.fault("Ctrl-C or SIGTERM to all processes, those that load the data too")
def test_signal_to_process_group_keeps_loader_processes(uninterrupted: End, name: str) -> None:
    options = (*TINY, "--data.num_workers", "2")
    assert Command(*options, *inject_fault("SignalAt", step=7, name=name, group=True)).wait() == 128 + getattr(
        signal, name
    )
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 8
    assert Command(*options, "--ckpt_path", "last").wait() == 0
    assert_same(uninterrupted)


@pytest.mark.fault("SIGTERM, twice in a row before anything is logged")
def test_two_interruptions_lose_no_metrics() -> None:
    sparse_logging = (*TINY, "--trainer.log_every_n_steps", "1000")
    assert Command(*sparse_logging, "--experiment", "uninterrupted").wait() == 0
    for step in (6, 8):
        resume = ["--ckpt_path", "last"] if step == 8 else []
        assert Command(*sparse_logging, *resume, *inject_fault("SignalAt", step=step, name="SIGTERM")).wait() == 143
    assert Command(*sparse_logging, "--ckpt_path", "last").wait() == 0
    assert_same(end_of("runs/uninterrupted/0"))


CONSTANT = [option for option in TINY if "lr_scheduler" not in option and "WarmupCosine" not in option]


@pytest.mark.parametrize("options", [["--trainer.max_steps", "8"], ["--trainer.val_check_interval", "2"]])
@pytest.mark.fault("SIGTERM at the end of an epoch, with max_steps, or where a validation is due")
def test_resumed_metrics_keep_their_steps(options: list[str]) -> None:
    """Check fits without schedule, which log the learning rate at the start of an epoch."""
    command = (*CONSTANT, "--trainer.log_every_n_steps", "1", *options)
    assert Command(*command, "--experiment", "uninterrupted").wait() == 0
    assert Command(*command, *inject_fault("SignalAt", step=4, name="SIGTERM")).wait() == 143
    assert Command(*command, "--ckpt_path", "last").wait() == 0
    assert_same(end_of("runs/uninterrupted/0"))


@pytest.mark.fault("SIGTERM where every step is the last of its epoch")
def test_signal_in_epoch_of_one_step() -> None:
    short = (*TINY, "--data.batch_size", "20", "--trainer.max_epochs", "5")
    assert Command(*short, "--experiment", "uninterrupted").wait() == 0
    assert Command(*short, *EVERY_STEP, *inject_fault("SignalAt", step=2, name="SIGTERM")).wait() == 143
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert Command(*short, "--ckpt_path", "last").wait() == 0
    assert_same(end_of("runs/uninterrupted/0"))


@pytest.mark.fault("a second signal while the checkpoint is written")
def test_second_signal_while_saving_keeps_last_checkpoint() -> None:
    def before() -> None:
        from darkroom.runtime import checkpoint_io

        save = checkpoint_io.torch.save

        def interrupted(checkpoint: dict, file: Any) -> None:
            if checkpoint["global_step"] == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            save(checkpoint, file)

        checkpoint_io.torch.save = interrupted

    command = Command(*TINY, *EVERY_STEP, *inject_fault("SignalAt", step=7, name="SIGTERM"), before=before)
    assert command.wait() == 143
    assert "Traceback" not in command.text
    assert [path.name for path in Path("runs/it/0/checkpoints").glob("last*")] == ["last.ckpt"]
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 7


@pytest.mark.parametrize("subcommand", ["validate", "test"])
@pytest.mark.fault("SIGTERM in validate and test")
def test_validate_and_test_exit_immediately(subcommand: str) -> None:
    stop_signal = inject_fault("SignalAt", step=0, name="SIGTERM", validating=True)
    options = [option for option in TINY[1:] if "lr_scheduler" not in option and "WarmupCosine" not in option]
    command = Command(subcommand, *options, *(stop_signal if subcommand == "validate" else [*stop_signal, *TESTING]))
    assert command.wait() == 143


TESTING = ("--trainer.callbacks.testing=true",)


@pytest.mark.fault("SIGTERM of one rank of two")
def test_signal_to_one_rank_stops_both(uninterrupted_on_two_ranks: End) -> None:
    """Check that weights and random states of both ranks equal those of an uninterrupted fit."""
    for command in on_two_ranks(*NOISY, *inject_fault("SignalAt", step=6, name="SIGTERM", rank=1)):
        assert command.wait() == 143
    assert [command.wait() for command in on_two_ranks(*NOISY, "--ckpt_path", "last")] == [0, 0]
    assert_same(uninterrupted_on_two_ranks)


@pytest.mark.fault("kill -9 of one rank of two: the other ends too")
def test_killed_rank_stops_the_other(uninterrupted_on_two_ranks: End) -> None:
    first, second = on_two_ranks(*NOISY, *EVERY_STEP, *inject_fault("SignalAt", step=6, name="SIGKILL", rank=1))
    assert second.wait() == -9
    assert first.wait() == 1
    assert "another rank of this run ended" in first.text
    assert [command.wait() for command in on_two_ranks(*NOISY, "--ckpt_path", "last")] == [0, 0]
    assert_same(uninterrupted_on_two_ranks)


def test_signal_handlers_are_restored() -> None:
    from darkroom.signals import SIGNALS, handle_signals, stop

    # nohup and shells start commands in the background with ignored signals, which stay ignored.
    inherited = {signum: signal.signal(signum, signal.default_int_handler) for signum in SIGNALS}
    try:
        with handle_signals(stop):
            assert all(signal.getsignal(signum) is stop for signum in SIGNALS)
        assert all(signal.getsignal(signum) is signal.default_int_handler for signum in SIGNALS)
    finally:
        for signum, handler in inherited.items():
            signal.signal(signum, handler)


@pytest.mark.fault("rank 0 is killed: no other rank is left behind")
def test_rank_exits_with_its_parent(tmp_path: Path) -> None:
    reading, writing = multiprocessing.Pipe()

    def rank() -> None:
        from darkroom.signals import die_with_parent

        os.environ["LOCAL_RANK"] = "1"
        die_with_parent()
        writing.send(os.getpid())
        signal.pause()

    def parent() -> None:
        multiprocessing.get_context("fork").Process(target=rank).start()
        signal.pause()

    process = multiprocessing.get_context("fork").Process(target=parent)
    process.start()
    pid = reading.recv()
    process.kill()
    process.join()

    wait_until(lambda: not Path(f"/proc/{pid}").exists() or ") Z" in Path(f"/proc/{pid}/stat").read_text())
