"""GracefulStop: a fit that is asked to end finishes its step, saves, and can go on as if nothing had happened."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import distributed

from darkroom.callbacks.training.checkpoint import SteadyCheckpoint, between_steps
from darkroom.errors import Stopped
from darkroom.signals import handled_by, stop


class GracefulStop(Callback):
    """On SIGINT, SIGTERM or SIGUSR1 ends a fit after the step that it is in, with everything saved in ``last.ckpt``.

    All ranks end after the same step, whichever of them got the signal: each tells the others with an all-reduce that
    nobody waits for, because it is looked at only a step later. A validation that is due is finished first, so that the
    fit that goes on has not lost its scores; so is an epoch, after its last step. A second signal ends the fit at once,
    with the checkpoint there was before.
    """

    def __init__(self) -> None:
        self._asked = 0  # the signal
        self._agreed = 0  # the one that all ranks know of
        self._answer: Callable[[], int] | None = None
        self._handlers = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._handlers.enter_context(handled_by(self._ask))

    def _ask(self, signum: int, frame: FrameType | None = None) -> None:
        if self._asked:
            stop(signum)
        self._asked = signum
        print("\ndarkroom: asked to stop after this step (a second time: at once)", file=sys.stderr)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._agree(trainer)
        if not self._agreed:
            return
        last = [
            one for one in trainer.checkpoint_callbacks if isinstance(one, SteadyCheckpoint) and one.monitor is None
        ]
        for callback in last:
            callback.due = True  # at the latest at the end of the epoch
        if between_steps(trainer):
            for callback in last:
                callback.save_now(trainer)
            self._end(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._agreed:
            self._end(trainer)

    def _agree(self, trainer: Trainer) -> None:
        """Learns which signal any rank had got a step ago."""
        if trainer.world_size == 1:
            self._agreed = self._asked
            return
        if self._answer is not None:
            self._agreed = self._answer()
        self._answer = _greatest_of_all(max(self._asked, self._agreed), trainer.strategy.root_device)

    def _end(self, trainer: Trainer) -> None:
        # One that this command started says nothing: its parent would be killed for the exit code of a child.
        child = trainer.local_rank > 0 and not trainer.strategy.cluster_environment.creates_processes_externally
        raise Stopped(None if child else self._agreed)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._answer is not None:
            self._answer()
        self._handlers.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._answer = None
        self._handlers.close()


def _greatest_of_all(value: int, device: torch.device) -> Callable[[], int]:
    """Asks all ranks, and returns what gives the greatest of their values later; nothing waits until it is called.

    A GPU's answer is copied as soon as it is there: to fetch it only when it is wanted would wait for all that the GPU was
    given to do meanwhile.
    """
    flag = torch.full((), value, device=device)
    work = distributed.all_reduce(flag, distributed.ReduceOp.MAX, async_op=True)
    wait = work.wait
    if device.type == "cuda":
        work.wait()  # of the stream, not of this process
        flag, copied = flag.to("cpu", non_blocking=True), torch.cuda.Event()
        copied.record()
        wait = copied.synchronize

    def answer() -> int:
        wait()
        return int(flag)

    return answer
