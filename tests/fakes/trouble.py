"""Callbacks that inject a fault at a given step of a fit."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class At(Callback):
    """Base class: call ``happen`` after the loss of the given step, or within the validation after it."""

    def __init__(self, step: int, validating: bool = False, rank: int | None = None) -> None:
        self.step, self.validating, self.rank = step, validating, rank

    def happen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise NotImplementedError

    def _now(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            self.happen(trainer, pl_module)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not self.validating:
            self._now(trainer, pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.validating:
            self._now(trainer, pl_module)


class SignalAt(At):
    """Send a signal to this process or to its group, one or more times."""

    def __init__(
        self,
        step: int,
        name: str,
        times: int = 1,
        validating: bool = False,
        testing: bool = False,
        group: bool = False,
        rank: int | None = None,
    ) -> None:
        super().__init__(step, validating, rank)
        self.signum, self.times, self.testing = getattr(signal, name), times, testing
        self.send = os.killpg if group else os.kill

    def happen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for _ in range(self.times):
            self.send(os.getpid(), self.signum)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.testing:
            self._now(trainer, pl_module)


class KillWorkerAt(At):
    """Kill the processes that load the data."""

    def happen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for worker in multiprocessing.active_children():
            worker.kill()


class AskForMemoryAt(At):
    """Allocate more memory than any machine has."""

    def happen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.empty(2**50)


class BreakWeightsAt(At):
    """Make a weight infinite while the loss is finite, as a too large step does."""

    def happen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.broken = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if getattr(self, "broken", False):
            with torch.no_grad():
                next(pl_module.parameters()).view(-1)[0] = torch.inf


class FillDiskAt(At):
    """Write into a folder until its disk is full."""

    def __init__(self, step: int, folder: str, left: int = 0) -> None:
        super().__init__(step)
        self.folder, self.left = folder, left

    def happen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fill(Path(self.folder), self.left)


def fill(folder: Path, left: int = 0) -> None:
    """Fill the disk of a folder up to a number of free bytes."""
    with (folder / "filling").open("wb", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
        file.truncate(file.tell() - left)


def wait_until(true: Callable[[], Any], seconds: float = 120) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
