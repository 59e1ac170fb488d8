"""Measured training step of a config on this CPU: seconds of the processor, and bytes of torch's allocator."""

import contextlib
import io
import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.profile_steps import CONFIGS
from darkroom.__main__ import main as darkroom

WARM, STEPS = 2, 3


@dataclass(frozen=True)
class Measured:
    """Measured training step.

    Args:
        seconds: median of the processor time.
        peak: bytes at the peak: of all tensors before the step, and what torch's allocator adds within it.
    """

    seconds: float
    peak: float


found: list[Measured] = []  # by the last fit


class StepMeter(Callback):
    """Time the steps of a fit after its first ones, then record the allocations of one more."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.before = 0
        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock, or the record of allocations."""
        if batch_idx == WARM + STEPS:
            self.before = _bytes_of(trainer, pl_module)
            self.profiler.start()
        self.started = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock, or read the record."""
        self.times.append(time.process_time() - self.started)
        if batch_idx == WARM + STEPS:
            self.profiler.stop()
            events = [e for e in self.profiler.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]  # it has run
            changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]  # type: ignore[union-attr]  # of Kineto's own events
            peak = self.before + max(itertools.accumulate(changes), default=0)
            found.append(Measured(statistics.median(self.times[WARM:-1]), peak))


def _bytes_of(trainer: Trainer, module: LightningModule) -> int:
    """Return the bytes of all tensors between two steps: weights, buffers, gradients, optimizer states."""
    states = [value for one in trainer.optimizers for state in one.state.values() for value in state.values()]
    gradients = [weight.grad for weight in module.parameters()]
    tensors = [*module.parameters(), *module.buffers(), *gradients, *states]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if isinstance(t, Tensor)}
    return sum(storages.values())


def measure(name: str) -> Measured:
    """Fit a config for a few steps on one thread and return its measured step."""
    found.clear()
    torch.set_num_threads(1)
    trainer: dict[str, Any] = {
        "max_steps": WARM + STEPS + 1,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "callbacks": None,
    }
    trainer["enable_checkpointing"] = False
    overlay: dict[str, Any] = {"trainer": trainer, "data": {"init_args": {"num_workers": 0}}}
    if "\n    scores:" in (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"):
        overlay["model"] = {"init_args": {"scores": None}}  # their classifiers are trained before the first step
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        file = Path(folder, "measure.yaml")
        file.write_text(yaml.safe_dump(overlay), encoding="utf-8")
        argv = ["fit", f"--config={CONFIGS / name}.yaml", f"--config={file}", f"--runs_dir={folder}"]
        if darkroom([*argv, f"--trainer.callbacks+={__name__}.StepMeter", "--trainer.enable_progress_bar=false"]):
            raise SystemExit(printed.getvalue())
    return found[-1]
