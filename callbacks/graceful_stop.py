"""GracefulStop: a fit that is asked to end finishes its step, saves, and can go on as if nothing had happened."""

import sys
from contextlib import ExitStack
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import distributed

from callbacks.steady_checkpoint import SteadyCheckpoint, between_steps
from darkroom.errors import Stopped
from darkroom.signals import handled_by, stop


class GracefulStop(Callback):
    """On SIGINT, SIGTERM or SIGUSR1 ends a fit after the step that it is in, with everything saved in ``last.ckpt``.

    All ranks end after the same step, whichever of them got the signal: each tells the others with an all-reduce that
    nobody waits for, because it is looked at only a step later. A validation that is due is finished first, so that the
    fit that goes on has not lost its scores. A second signal ends the fit at once, with the checkpoint there was before.
    """

    def __init__(self) -> None:
        self._asked: int | None = None  # the signal
        self._told: tuple[torch.Tensor, distributed.Work] | None = None
        self._handlers = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._handlers.enter_context(handled_by(self._ask))

    def _ask(self, signum: int, frame: FrameType | None = None) -> None:
        if self._asked is not None:
            stop(signum)
        self._asked = signum
        print("\ndarkroom: asked to stop; this step ends and is saved (a second time: at once)", file=sys.stderr)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        asked = self._asked_anywhere(trainer)
        if asked and between_steps(trainer):
            self._end(trainer, asked)

    def _asked_anywhere(self, trainer: Trainer) -> int:
        """The signal that any rank had got a step ago, or 0."""
        asked = self._asked or 0
        if trainer.world_size == 1:
            return asked
        before = 0
        if self._told is not None:
            flag, work = self._told
            work.wait()
            before = int(flag)
        flag = torch.tensor(max(asked, before), device=trainer.strategy.root_device)
        self._told = flag, distributed.all_reduce(flag, distributed.ReduceOp.MAX, async_op=True)
        return before

    def _end(self, trainer: Trainer, signum: int) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, SteadyCheckpoint) and callback.filename == "last":
                callback.save_now(trainer)
        # One that this command started says nothing: its parent would be killed for the exit code of a child.
        child = trainer.local_rank > 0 and not trainer.strategy.cluster_environment.creates_processes_externally
        raise Stopped(None if child else signum)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._told is not None:
            self._told[1].wait()
        self._handlers.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._told = None
        self._handlers.close()
