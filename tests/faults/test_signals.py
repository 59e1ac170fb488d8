"""SIGTERM, Ctrl-C and SIGUSR1: the step ends and is saved, the exit code says which it was, and the fit can go on."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.commands import EVERY_STEP, NOISY, TINY, Command, on_two_ranks, trouble
from tests.fakes.trouble import wait_until
from tests.faults.conftest import End, assert_same, end_of


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
@pytest.mark.fault("SIGTERM, Ctrl-C or SIGUSR1 in a step")
def test_a_fit_that_is_asked_to_end_is_saved_and_goes_on(whole: End, name: str, code: int) -> None:
    # Step 11 is one whose loss is logged, just when the fit ends.
    command = Command(*TINY, *trouble("SignalAt", step=11, name=name))
    assert command.wait() == code
    assert "stopping after this step" in command.text
    assert "last.ckpt is intact; the same command" in command.text
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 12
    assert Command(*TINY, "--ckpt_path", "last").wait() == 0
    assert_same(whole)


@pytest.mark.fault("SIGTERM within a validation, which is finished first")
def test_a_validation_is_finished_first(whole: End) -> None:
    command = Command(*TINY, *trouble("SignalAt", step=5, name="SIGTERM", validating=True))
    assert command.wait() == 143
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    assert Command(*TINY, "--ckpt_path", "last").wait() == 0
    assert_same(whole)


@pytest.mark.fault("a second signal: the end at once, with the checkpoint before")
def test_a_second_signal_ends_at_once() -> None:
    command = Command(*TINY, *EVERY_STEP, *trouble("SignalAt", step=7, name="SIGINT", times=2))
    assert command.wait() == 130
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 7


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.fault("Ctrl-C or SIGTERM to all processes, those that load the data too")
def test_processes_that_load_the_data_outlive_it(whole: End, name: str) -> None:
    options = (*TINY, "--data.num_workers", "2")
    assert Command(*options, *trouble("SignalAt", step=7, name=name, group=True)).wait() == 128 + getattr(signal, name)
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 8
    assert Command(*options, "--ckpt_path", "last").wait() == 0
    assert_same(whole)


@pytest.mark.fault("SIGTERM, twice in a row before anything is logged")
def test_two_stops_lose_no_row() -> None:
    seldom = (*TINY, "--trainer.log_every_n_steps", "1000")
    assert Command(*seldom, "--experiment", "whole").wait() == 0
    for step in (6, 8):
        goes_on = ["--ckpt_path", "last"] if step == 8 else []
        assert Command(*seldom, *goes_on, *trouble("SignalAt", step=step, name="SIGTERM")).wait() == 143
    assert Command(*seldom, "--ckpt_path", "last").wait() == 0
    assert_same(end_of("runs/whole/0"))


CONSTANT = [option for option in TINY if "lr_scheduler" not in option and "WarmupCosine" not in option]


@pytest.mark.parametrize("options", [["--trainer.max_steps", "8"], ["--trainer.val_check_interval", "2"]])
@pytest.mark.fault("SIGTERM at the end of an epoch, with max_steps, or where a validation is due")
def test_rows_keep_their_steps(options: list[str]) -> None:
    """Without a schedule the learning rate is logged at the start of an epoch."""
    command = (*CONSTANT, "--trainer.log_every_n_steps", "1", *options)
    assert Command(*command, "--experiment", "whole").wait() == 0
    assert Command(*command, *trouble("SignalAt", step=4, name="SIGTERM")).wait() == 143
    assert Command(*command, "--ckpt_path", "last").wait() == 0
    assert_same(end_of("runs/whole/0"))


@pytest.mark.fault("SIGTERM where every step is the last of its epoch")
def test_an_epoch_of_one_step() -> None:
    short = (*TINY, "--data.batch_size", "20", "--trainer.max_epochs", "5")
    assert Command(*short, "--experiment", "whole").wait() == 0
    assert Command(*short, *EVERY_STEP, *trouble("SignalAt", step=2, name="SIGTERM")).wait() == 143
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert Command(*short, "--ckpt_path", "last").wait() == 0
    assert_same(end_of("runs/whole/0"))


@pytest.mark.fault("a second signal while the checkpoint is written")
def test_a_second_signal_while_it_is_saved() -> None:
    def before() -> None:
        from darkroom.runtime import checkpoint_io

        save = checkpoint_io.torch.save

        def interrupted(checkpoint: dict, file: Any) -> None:
            if checkpoint["global_step"] == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            save(checkpoint, file)

        checkpoint_io.torch.save = interrupted

    command = Command(*TINY, *EVERY_STEP, *trouble("SignalAt", step=7, name="SIGTERM"), before=before)
    assert command.wait() == 143
    assert "Traceback" not in command.text
    assert [path.name for path in Path("runs/it/0/checkpoints").glob("last*")] == ["last.ckpt"]
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 7


@pytest.mark.parametrize("subcommand", ["validate", "test"])
@pytest.mark.fault("SIGTERM in validate and test")
def test_other_commands_end_at_once(subcommand: str) -> None:
    asked = trouble("SignalAt", step=0, name="SIGTERM", validating=True)
    options = [option for option in TINY[1:] if "lr_scheduler" not in option and "WarmupCosine" not in option]
    command = Command(subcommand, *options, *(asked if subcommand == "validate" else [*asked, *TESTING]))
    assert command.wait() == 143


TESTING = ("--trainer.callbacks.testing=true",)


@pytest.mark.fault("SIGTERM of one rank of two")
def test_two_ranks_end_together(whole_on_two_ranks: End) -> None:
    """Whichever is asked; the weights are those of the fit that nobody asked, and so is every rank's noise."""
    for command in on_two_ranks(*NOISY, *trouble("SignalAt", step=6, name="SIGTERM", rank=1)):
        assert command.wait() == 143
    assert [command.wait() for command in on_two_ranks(*NOISY, "--ckpt_path", "last")] == [0, 0]
    assert_same(whole_on_two_ranks)


@pytest.mark.fault("kill -9 of one rank of two: the other ends too")
def test_a_rank_that_is_gone(whole_on_two_ranks: End) -> None:
    first, second = on_two_ranks(*NOISY, *EVERY_STEP, *trouble("SignalAt", step=6, name="SIGKILL", rank=1))
    assert second.wait() == -9
    assert first.wait() == 1
    assert "another rank of this run is gone" in first.text
    assert [command.wait() for command in on_two_ranks(*NOISY, "--ckpt_path", "last")] == [0, 0]
    assert_same(whole_on_two_ranks)


def test_signals_do_what_they_did_before() -> None:
    from darkroom.signals import SIGNALS, handle_signals, stop

    before = [signal.getsignal(signum) for signum in SIGNALS]
    with handle_signals(stop):
        assert all(signal.getsignal(signum) is stop for signum in SIGNALS)
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


@pytest.mark.fault("rank 0 is killed: no other rank is left behind")
def test_a_rank_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
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
