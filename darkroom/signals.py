"""Signals: what Ctrl-C, a scheduler's SIGTERM and its warning SIGUSR1 do to a command."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lightning import Trainer

from darkroom.errors import Stopped

# Ctrl-C; the end of a job, a container or a machine; the warning that Slurm is asked for by `--signal=SIGUSR1@...`.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, the three signals call this; afterwards what they called before."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is told of signals
        return
    before = {signum: signal.signal(signum, handler) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler_before in before.items():
            signal.signal(signum, signal.SIG_DFL if handler_before is None else handler_before)


def stop(signum: int, frame: FrameType | None = None) -> None:
    """Ends the command at once, with its exit code and what a failure leaves behind: W&B is told, processes are ended."""
    raise Stopped(signum)


def die_with_parent() -> None:
    """Has a rank that another process started end when that one does, even by SIGKILL; on Linux."""
    if sys.platform == "linux" and int(os.environ.get("LOCAL_RANK", 0)) > 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def take_over(trainer: Trainer) -> None:
    """Has Lightning leave the three signals alone.

    Its way ends a fit that got SIGTERM with exit code 0, has all ranks wait for the first of them in every step, saves from
    within the handler, wherever the step may be, and knows SIGTERM of the first rank only.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
