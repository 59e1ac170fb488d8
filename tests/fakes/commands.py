"""Command lines in forked processes, which can be killed; a fork starts much faster than a new Python process."""

import gc
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from tests.fakes.trouble import wait_until


def redirect_console(path: Path) -> None:
    """Write what this forked process prints into a file."""
    console = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(console, 1)
    os.dup2(console, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)


class Command:
    """Start ``darkroom`` with these arguments, as the first process of a session of its own.

    Args:
        argv: the command line.
        before: called in the new process before the command.
        environment: added to the environment.

    Attributes:
        text: what it has written to the console so far.
    """

    number = 0

    def __init__(
        self, *argv: object, before: Callable[[], None] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            pytest.skip("forked processes")
        Command.number += 1
        self._console = Path(f"console-{os.getpid()}-{Command.number}.txt").absolute()
        arguments = ([str(arg) for arg in argv], before, dict(environment or {}))
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=arguments)
        self.process.start()

    def _run(self, argv: list[str], before: Callable[[], None] | None, environment: dict[str, str]) -> None:
        from darkroom.__main__ import main

        gc.freeze()  # garbage of the parent is not collected here: threads that it may wait for are not in a fork
        os.setsid()
        redirect_console(self._console)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
        os.environ.update(environment)
        rank = int(os.environ.get("RANK", 0))
        rank_zero_only.rank = rank  # type: ignore[attr-defined]  # Lightning sets it on the function when it is imported
        sys.argv = ["darkroom"]
        if before is not None:
            before()
        sys.exit(main(argv))

    @property
    def text(self) -> str:
        return self._console.read_text() if self._console.is_file() else ""

    def kill(self, signum: int = signal.SIGKILL) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signum)

    def wait(self, seconds: float = 120) -> int:
        """Return the exit code, negative for a signal, and check that no process of the session is left."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it hangs:\n{self.text}"
        wait_until(lambda: not self.left(), 30)
        return self.process.exitcode

    def left(self) -> list[str]:
        """Return the processes of the session that are still alive."""
        alive = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, rest = stat.read_text().rsplit(")", 1)
            except OSError:  # it has exited
                continue
            state, session = rest.split()[0], int(rest.split()[3])
            if session == self.process.pid and state not in "ZX":
                alive.append(name)
        return alive


TINY = (
    *("fit", "--model", "SemanticSegmentation", "--model.network", "tests.fakes.parts.TinyNetwork"),
    *("--model.network.num_classes", "6", "--model.optim.lr_scheduler", "WarmupCosine"),
    *("--data", "ShapesSegmentation", "--data.train_size", "20", "--data.val_size", "4", "--data.batch_size", "4"),
    *("--data.side", "16", "--data.augment", '[{"class_path": "torchvision.transforms.v2.RandomHorizontalFlip"}]'),
    *("--data.num_workers", "0", "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "2"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false", "--experiment", "it"),
)
"""A fit of fifteen steps, three epochs, with dropout, augmentation and a schedule, in less than a second."""

NOISY = (
    *("fit", "--model", "VAE", "--model.channels", "[4]", "--model.latent_dim", "2", "--data", "ShapesImages"),
    *("--data.train_size", "20", "--data.val_size", "5", "--data.batch_size", "2", "--data.side", "16"),
    *("--data.num_workers", "0", "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false", "--experiment", "it"),
)
"""A fit of ten steps on each of two ranks, of a model with fresh noise per rank and step."""

EVERY_STEP = ("--last_checkpoint.every_n_epochs", "null", "--last_checkpoint.every_n_train_steps", "1")


def inject_fault(fault: str, **arguments: object) -> list[str]:
    """Return the options that add a callback of ``tests.fakes.trouble``."""
    options = [f"--trainer.callbacks+=tests.fakes.trouble.{fault}"]
    return options + [f"--trainer.callbacks.{key}={value}" for key, value in arguments.items()]


def on_two_ranks(*argv: object) -> list[Command]:
    """Start a command on two ranks, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group |= {"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0", "NODE_RANK": "0"}
    both = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
    return [
        Command(*argv, *both, environment=group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)
    ]
