"""Signals: what Ctrl-C, a scheduler's SIGTERM and its warning SIGUSR1 do to a command."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from darkroom.errors import Stopped

# Ctrl-C; the end of a job, a container or a machine; of a terminal; the warning that Slurm is asked for by `--signal`.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, the signals call this, but those that are ignored (nohup's) stay so; afterwards what they called before."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is told of signals
        return
    answered = [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, handler) for signum in answered}
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
