"""Framework overhead per step: Darkroom's version of each part of Lightning beside Lightning's, on a tiny network."""

import gc
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    ThroughputMonitor,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.speed.harness import Options, Result, Row, entry, one_thread
from darkroom.callbacks.training.checkpoint import SteadyCheckpoint
from darkroom.callbacks.training.exact_resume import ExactResume
from darkroom.callbacks.training.graceful_stop import GracefulStop
from darkroom.callbacks.training.progress_bar import QuietProgressBar
from darkroom.callbacks.training.throughput import Throughput
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.layers.ema import EMA
from darkroom.runtime.csv_logger import ResumableCSVLogger

WARM, STEPS, BATCH = 20, 320, 4
Batch = dict[str, Tensor]


def _now(device: str | torch.device) -> float:
    """Read the clock: on a CPU the processor time of this thread, which other processes do not change."""
    return time.thread_time() if torch.device(device).type == "cpu" else time.perf_counter()


class Clock(Callback):
    """Measure the time from step WARM to the last one."""

    start = end = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start after the warm-up."""
        if batch_idx == WARM:
            self.start = _now(pl_module.device)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Note the end of a step."""
        self.end = _now(pl_module.device)


class Minimal(LightningModule):
    """Module with a training step alone."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(8, 8)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss."""
        return F.mse_loss(self.network(batch["image"]), batch["image"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build a fused AdamW."""
        return torch.optim.AdamW(self.parameters(), fused=True)


class Logged(Minimal):
    """``Minimal`` with Lightning's logging of the loss."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute and log the loss."""
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss


class RunningLoss(Technique):
    """``Minimal`` with our running loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(8, 8)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Compute the loss and add it to the running means."""
        return self.log_loss({"loss": F.mse_loss(self.network(batch["image"]), batch["image"])})


class OwnEMA(Minimal):
    """``Minimal`` with our EMA weights."""

    def __init__(self) -> None:
        super().__init__()
        self.ema = EMA(self.network)

    def on_train_batch_end(self, *args: Any) -> None:
        """Update the average."""
        self.ema.update(self.network)


class ReadyBatches(Dataset):
    """Data set with prepared batches, so that only the framework is measured."""

    def __init__(self) -> None:
        self.image = torch.randn(BATCH, 8)

    def __len__(self) -> int:
        return BATCH * STEPS

    def __getitems__(self, indices: list[int]) -> Batch:
        return {"image": self.image}

    def __getitem__(self, index: int) -> Batch:
        return {"image": self.image[index % BATCH]}


@dataclass(frozen=True)
class Side:
    """One configuration of the Trainer.

    Args:
        part: the part of the Trainer that is on; sides of one part are compared with each other.
        name: the library whose version it is.
        module: of the fit.
        trainer: makes the Trainer's arguments for a folder.
    """

    part: str
    name: str
    module: Callable[[], LightningModule] = Minimal
    trainer: Callable[[Path], dict[str, Any]] = field(default=lambda folder: {})

    @property
    def title(self) -> str:
        """Name of its row."""
        return f"{self.part}: {self.name}"


def _callbacks(*makers: Callable[[Path], Callback]) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {"callbacks": [make(folder) for make in makers]}


def _bar(make: Callable[[], TQDMProgressBar]) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {"callbacks": [make()], "enable_progress_bar": True}


def _checkpoints(kind: type[ModelCheckpoint], folder: Path) -> list[Callback]:
    best = kind(folder, "best", monitor="step", mode="max", enable_version_counter=False)
    last = kind(folder, "last", every_n_epochs=1, save_on_train_epoch_end=True, enable_version_counter=False)
    return [best, last]


def _two_checkpoints(kind: type[ModelCheckpoint]) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {"callbacks": _checkpoints(kind, folder), "enable_checkpointing": True}


def _monitor(folder: Path) -> Callback:
    return ThroughputMonitor(batch_size_fn=lambda batch: len(batch["image"]))


def _everything_stock(folder: Path) -> dict[str, Any]:
    callbacks = [LearningRateMonitor(), _monitor(folder), TQDMProgressBar(), *_checkpoints(ModelCheckpoint, folder)]
    switches = {"enable_progress_bar": True, "enable_checkpointing": True}
    return {"callbacks": callbacks, "logger": CSVLogger(folder), **switches}


def _everything_ours(folder: Path) -> dict[str, Any]:
    callbacks = [LearningRateMonitor(), Throughput(), ExactResume(), GracefulStop(), QuietProgressBar()]
    switches = {"enable_progress_bar": True, "enable_checkpointing": True}
    return {
        "callbacks": callbacks + _checkpoints(SteadyCheckpoint, folder),
        "logger": ResumableCSVLogger(folder),
        **switches,
    }


SIDES = [
    Side("Lightning", "everything off"),
    Side("loss", "Lightning, self.log", Logged, lambda folder: {"logger": CSVLogger(folder)}),
    Side("loss", "darkroom, log_loss", RunningLoss, lambda folder: {"logger": CSVLogger(folder)}),
    Side("progress bar", "Lightning, refresh 1", trainer=_bar(TQDMProgressBar)),
    Side("progress bar", "Lightning, refresh 20", trainer=_bar(lambda: TQDMProgressBar(refresh_rate=20))),
    Side("progress bar", "darkroom", trainer=_bar(QuietProgressBar)),
    Side(
        "throughput", "Lightning", trainer=lambda folder: {"callbacks": [_monitor(folder)], "logger": CSVLogger(folder)}
    ),
    Side("throughput", "darkroom", trainer=lambda folder: {"callbacks": [Throughput()], "logger": CSVLogger(folder)}),
    Side("checkpoints", "Lightning", trainer=_two_checkpoints(ModelCheckpoint)),
    Side("checkpoints", "darkroom", trainer=_two_checkpoints(SteadyCheckpoint)),
    Side("CSV logger", "Lightning", Logged, lambda folder: {"logger": CSVLogger(folder)}),
    Side("CSV logger", "darkroom", Logged, lambda folder: {"logger": ResumableCSVLogger(folder)}),
    Side("EMA", "Lightning", trainer=_callbacks(lambda folder: EMAWeightAveraging())),
    Side("EMA", "darkroom", OwnEMA),
    Side(
        "resume and stop", "darkroom", trainer=_callbacks(lambda folder: ExactResume(), lambda folder: GracefulStop())
    ),
    Side("everything on", "Lightning", Logged, _everything_stock),
    Side("everything on", "darkroom", RunningLoss, _everything_ours),
]


def _loader() -> DataLoader:
    return DataLoader(ReadyBatches(), batch_size=BATCH, shuffle=True, collate_fn=lambda batch: batch, num_workers=0)


def _bare_loop(options: Options) -> float:
    module = Minimal().to(options.device)
    optimizer = module.configure_optimizers()
    start = 0.0
    for index, batch in enumerate(_loader()):
        if index == WARM:
            start = _now(options.device)
        optimizer.zero_grad()
        module.training_step({"image": batch["image"].to(options.device)}, index).backward()
        optimizer.step()
    return (_now(options.device) - start) / (STEPS - WARM)


def _fit(side: Side, options: Options) -> float:
    gc.collect()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        off: dict[str, Any] = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "callbacks": [],
        }
        arguments = off | side.trainer(Path(folder))
        arguments["callbacks"] = [*arguments["callbacks"], clock]
        accelerator = "gpu" if options.device == "cuda" else "cpu"
        trainer = Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=1,
            log_every_n_steps=50,
            enable_model_summary=False,
            default_root_dir=folder,
            **arguments,
        )
        trainer.fit(side.module(), _loader())
    return (clock.end - clock.start) / (STEPS - WARM)


def _differences(times: dict[str, list[float]]) -> list[str]:
    """Compare the sides of each part round by round: the median of the ratios, and their quartiles."""
    lines = []
    for part in dict.fromkeys(side.part for side in SIDES[1:]):
        titles = [side.title for side in SIDES if side.part == part]
        ours = titles[-1]
        others = titles[:-1] or [SIDES[0].title]
        for other in others:
            ratios = [mine / theirs for mine, theirs in zip(times[ours], times[other], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else 3 * ratios
            lines.append(f"- {ours} / {other}: {middle:.2f} ({low:.2f} to {high:.2f})")
    return lines


@entry
def trainer_overhead(options: Options) -> Result:
    """Measure the time of a step on Linear(8, 8): bare loop, Lightning with everything off, each part, everything on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    times: dict[str, list[float]] = {title: [] for title in ("bare loop", *(side.title for side in SIDES))}
    with one_thread():
        for _ in range(options.rounds):
            times["bare loop"].append(_bare_loop(options))
            for side in SIDES:
                times[side.title].append(_fit(side, options))
    medians = {name: statistics.median(values) for name, values in times.items()}
    floor = medians[SIDES[0].title]
    rows = [Row(name, 1e3 * t, BATCH / t, t / floor) for name, t in medians.items()]
    notes = [
        f"Processor time of one thread, {STEPS - WARM} steps a round after {WARM} of warm-up, {options.rounds} rounds,",
        "interleaved. Logged every 50th step. Ratios of the same round, median (quartiles; of three rounds, extremes):",
        "",
        *_differences(times),
    ]
    return Result("Framework overhead per step", rows, notes)
