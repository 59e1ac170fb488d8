"""Handling of Ctrl-C, and of SIGTERM and the warning SIGUSR1 from a scheduler."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from darkroom.errors import Stopped

# Ctrl-C; end of a job, container or machine; end of a terminal; the warning that Slurm sends with `--signal`.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


@contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Context in which the signals call ``handler``; ignored ones (nohup) stay ignored. Exit restores the handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    handled = [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, handler) for signum in handled}
    try:
        yield
    finally:
        for signum, handler_before in before.items():
            signal.signal(signum, signal.SIG_DFL if handler_before is None else handler_before)


def stop(signum: int, frame: FrameType | None = None) -> None:
    """End the command at once, with the exit code of the signal; the W&B run is marked failed and processes end."""
    raise Stopped(signum)


def die_with_parent() -> None:
    """Make this rank end together with the process that started it, even by SIGKILL; Linux only."""
    if sys.platform == "linux" and int(os.environ.get("LOCAL_RANK", 0)) > 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
