"""SIGTERM, Ctrl-C and SIGUSR1: the step ends and is saved, the exit code says which it was, and the fit can go on."""

import multiprocessing
import os
import signal
import socket
from pathlib import Path

import pytest
import torch

from tests.fakes.commands import EVERY_STEP, TINY, Command, trouble
from tests.faults.test_kill import assert_same, end_of


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
@pytest.mark.fault("SIGTERM, Ctrl-C or SIGUSR1 in a step")
def test_a_fit_that_is_asked_to_end_is_saved_and_goes_on(name: str, code: int) -> None:
    assert Command(*TINY, "--experiment", "whole").wait() == 0
    # Step 11 is one whose loss is logged, just when the fit ends.
    command = Command(*TINY, *trouble("SignalAt", step=11, name=name))
    assert command.wait() == code
    assert "asked to stop" in command.text
    assert "last.ckpt is whole; the same command with --ckpt_path last goes on" in command.text
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 12
    assert Command(*TINY, "--ckpt_path", "last").wait() == 0
    assert_same(end_of("runs/whole/0"))


@pytest.mark.fault("SIGTERM within a validation, which is finished first")
def test_a_validation_is_finished_first() -> None:
    assert Command(*TINY, "--experiment", "whole").wait() == 0
    command = Command(*TINY, *trouble("SignalAt", step=5, name="SIGTERM", validating=True))
    assert command.wait() == 143
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    assert Command(*TINY, "--ckpt_path", "last").wait() == 0
    assert_same(end_of("runs/whole/0"))


@pytest.mark.fault("a second signal: the end at once, with the checkpoint before")
def test_a_second_signal_ends_at_once() -> None:
    command = Command(*TINY, *EVERY_STEP, *trouble("SignalAt", step=7, name="SIGINT", times=2))
    assert command.wait() == 130
    assert torch.load("runs/it/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 7


@pytest.mark.parametrize("subcommand", ["validate", "test"])
@pytest.mark.fault("SIGTERM in validate and test")
def test_other_commands_end_at_once(subcommand: str) -> None:
    asked = trouble("SignalAt", step=0, name="SIGTERM", validating=True)
    options = [option for option in TINY[1:] if "lr_scheduler" not in option and "WarmupCosine" not in option]
    command = Command(subcommand, *options, *(asked if subcommand == "validate" else [*asked, *TESTING]))
    assert command.wait() == 143


TESTING = ("--trainer.callbacks.testing=true",)


def ranks(*argv: object) -> list[Command]:
    """The same command on two ranks, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group |= {"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0", "NODE_RANK": "0"}
    both = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
    return [
        Command(*argv, *both, environment=group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)
    ]


# A model whose noise is drawn anew in every step, by each rank from its own generator.
NOISY = (
    *("fit", "--model", "VAE", "--model.channels", "[4]", "--model.latent_dim", "2", "--data", "ShapesImages"),
    *("--data.train_size", "20", "--data.val_size", "5", "--data.batch_size", "2", "--data.side", "16"),
    *("--data.num_workers", "0", "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false", "--experiment", "it"),
)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGKILL", -9)])
@pytest.mark.fault("SIGTERM and kill -9 of one rank of two")
def test_two_ranks_end_and_go_on_together(name: str, code: int) -> None:
    """Whichever rank is asked; the weights are those of the fit that nobody asked, and so is every rank's noise."""
    for command in ranks(*NOISY, "--experiment", "whole"):
        assert command.wait() == 0
    first, second = ranks(*NOISY, *EVERY_STEP, *trouble("SignalAt", step=6, name=name, rank=1))
    assert second.wait() == code
    if name == "SIGKILL":
        first.kill()  # as the launcher does when a rank is gone
    assert first.wait() == code
    for command in ranks(*NOISY, "--ckpt_path", "last"):
        assert command.wait() == 0, command.text
    assert_same(end_of("runs/whole/0"))


def test_signals_do_what_they_did_before() -> None:
    from darkroom.signals import SIGNALS, handled_by, stop

    before = [signal.getsignal(signum) for signum in SIGNALS]
    with handled_by(stop):
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

    from tests.fakes.trouble import wait_until

    wait_until(lambda: not Path(f"/proc/{pid}").exists() or ") Z" in Path(f"/proc/{pid}/stat").read_text())
