"""Commands of the cluster tests, and callbacks that interrupt a run at a given step on any machine."""

import csv
import os
import select
import signal
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tests.conftest import CONFIGS

ROOT = CONFIGS.parent
STEPS = 24
FIT = [
    *("fit", "--model", "SemanticSegmentation", "--model.network", "tests.fakes.parts.TinyNetwork"),
    *("--model.network.num_classes", "6", "--data", "ShapesSegmentation", "--data.train_size", "64"),
    *("--data.val_size", "8", "--data.batch_size", "4", "--data.side", "16", "--data.num_workers", "0"),
    *("--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
]
TWO_RANKS_HERE = ["--trainer.strategy", "ddp_fork", "--trainer.devices", "2"]


def last_of(run: str | Path) -> dict[str, Any]:
    return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)


def losses_of(run: str | Path) -> list[tuple[str, str]]:
    rows = csv.DictReader(Path(run, "metrics.csv").read_text().splitlines())
    return [(row["step"], row["train/loss"]) for row in rows if row["train/loss"]]


def assert_same_end(one: str | Path, other: str | Path) -> None:
    """Assert that two runs have bit-identical final weights and the same logged losses."""
    weights = [last_of(run)["state_dict"] for run in (one, other)]
    assert [last_of(run)["global_step"] for run in (one, other)] == [STEPS, STEPS]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert len(losses_of(one)) == STEPS
    assert losses_of(one) == losses_of(other)


class HoldForSignal(Callback):
    """Before each given step, write a file ``held-<step>-<rank>`` and wait for a signal."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step not in self.steps:
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        Path(f"held-{trainer.global_step}-{trainer.global_rank}").touch()
        assert select.select([reader], [], [], 300)[0], "no signal within five minutes"
        signal.set_wakeup_fd(before)


class KillOneRank(Callback):
    """Kill rank 1 with SIGKILL before a given step of its first start by torchrun."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and trainer.global_rank == 1 and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
