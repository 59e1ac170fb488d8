"""GracefulStop: a fit that receives a signal finishes its step, saves, and can resume exactly."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import distributed

from darkroom.callbacks.training.checkpoint import SteadyCheckpoint, is_between_steps
from darkroom.errors import Stopped
from darkroom.runtime.lightning_compat import is_started_by_this_command
from darkroom.signals import handle_signals, stop


class GracefulStop(Callback):
    """Ends a fit on SIGINT, SIGTERM or SIGUSR1 after the current step, with everything saved in ``last.ckpt``.

    All ranks end after the same step, whichever of them received the signal. Each rank sends it to the others with an
    all-reduce whose result is read one step later, so the ranks do not block on it. A validation that is due is finished
    first, because the resumed fit would lack its metrics. The same holds for an epoch after its last step. A second signal
    ends the fit at once; the previous checkpoint remains.
    """

    def __init__(self) -> None:
        self._received = 0  # the signal that this rank received
        self._agreed = 0  # the signal that all ranks have
        self._pending: Callable[[], int] | None = None
        self._handlers = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle signals during the fit."""
        self._handlers.enter_context(handle_signals(self._receive))

    def _receive(self, signum: int, frame: FrameType | None = None) -> None:
        if self._received:
            stop(signum)
        self._received = signum
        print("\ndarkroom: stopping after this step (a second signal stops at once)", file=sys.stderr)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a signal, save and end once the fit can resume from here."""
        self._agree(trainer)
        if not self._agreed:
            return
        last = [
            one for one in trainer.checkpoint_callbacks if isinstance(one, SteadyCheckpoint) and one.monitor is None
        ]
        for callback in last:
            callback.due = True  # at the latest at the end of the epoch
        if is_between_steps(trainer):
            for callback in last:
                callback.save_now(trainer)
            self._end(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End after a signal once the last epoch is finished and saved."""
        if self._agreed:
            self._end(trainer)

    def _agree(self, trainer: Trainer) -> None:
        """Read the signal that any rank had received one step ago."""
        if trainer.world_size == 1:
            self._agreed = self._received
            return
        if self._pending is not None:
            self._agreed = self._pending()
        self._pending = _max_over_ranks(max(self._received, self._agreed), trainer.strategy.root_device)

    def _end(self, trainer: Trainer) -> None:
        # A rank that this command started exits with 0: Lightning kills the parent for the exit code of a child.
        raise Stopped(None if is_started_by_this_command(trainer) else self._agreed)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the last all-reduce and restore the signal handlers."""
        if self._pending is not None:
            self._pending()
        self._handlers.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the signal handlers, also after an exception."""
        self._pending = None
        self._handlers.close()


def _max_over_ranks(value: int, device: torch.device) -> Callable[[], int]:
    """Start an all-reduce and return a function that returns its result.

    On a GPU the result is copied as soon as it is ready: a copy at the time of reading would synchronize with all work
    queued in between.
    """
    flag = torch.full((), value, device=device)
    work = distributed.all_reduce(flag, distributed.ReduceOp.MAX, async_op=True)
    copied: torch.cuda.Event | None = None
    if device.type == "cuda":
        work.wait()  # blocks the stream, not this process
        flag, copied = flag.to("cpu", non_blocking=True), torch.cuda.Event()
        copied.record()

    def result() -> int:
        if copied is None:
            work.wait()
        else:
            copied.synchronize()
        return int(flag)

    return result
