"""What a step costs beyond the network: our Trainer with everything on, Lightning's floor, a bare loop."""

import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.speed.harness import Options, Result, entry
from darkroom.callbacks.loggers.segmentation_mask_logger import SegmentationMaskLogger
from darkroom.callbacks.training.checkpoint import SteadyCheckpoint
from darkroom.callbacks.training.exact_resume import ExactResume
from darkroom.callbacks.training.progress_bar import QuietProgressBar
from darkroom.callbacks.training.throughput import Throughput
from darkroom.cli.trainer_defaults import NoProfiler
from darkroom.datamodules.base import VisionDataModule
from darkroom.lightning_modules.lr_schedulers import WarmupCosine
from darkroom.lightning_modules.segmentation import SemanticSegmentation
from darkroom.runtime.csv_logger import MetricsFile

WARM, STEPS = 200, 1200


class Clock(Callback):
    """Time from step WARM to the last one."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.end = time.perf_counter()


class Floor(LightningModule):
    """The least a LightningModule can do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch["image"] / 255), batch["mask"].long())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), fused=True)


class Ready(Dataset):
    """A data set whose batches of four are ready, so that only the frame around a step is measured."""

    def __init__(self) -> None:
        self.image = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
        self.mask = torch.randint(0, 2, (4, 8, 8), dtype=torch.uint8)

    def __len__(self) -> int:
        return 4 * STEPS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.image[index % 4], "mask": self.mask[index % 4]}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"image": self.image, "mask": self.mask}


class ReadyData(VisionDataModule):
    """The same through our data path: keyed order, resumable loader, bytes normalised on the device."""

    class_names = ("a", "b")
    image_shape = (3, 8, 8)

    def dataset(self, split: str) -> Dataset:
        return Ready()


def _plain_loader() -> DataLoader:
    return DataLoader(Ready(), batch_size=4, shuffle=True, collate_fn=lambda batch: batch, num_workers=0)


def _bare(options: Options) -> float:
    network = nn.Conv2d(3, 2, 1).to(options.device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    for index, batch in enumerate(_plain_loader()):
        if index == WARM:
            start = time.perf_counter()
        image, mask = batch["image"].to(options.device) / 255, batch["mask"].to(options.device).long()
        optimizer.zero_grad()
        F.cross_entropy(network(image), mask).backward()
        optimizer.step()
    return (time.perf_counter() - start) / (STEPS - WARM)


def _trainer(options: Options, model: LightningModule, data: Any, **kwargs: Any) -> float:
    clock = Clock()
    callbacks = [*kwargs.pop("callbacks", []), clock]
    accelerator = "gpu" if options.device == "cuda" else "cpu"
    trainer = Trainer(
        accelerator=accelerator, devices=1, max_epochs=1, callbacks=callbacks, enable_model_summary=False, **kwargs
    )
    trainer.fit(model, data)
    return (clock.end - clock.start) / (STEPS - WARM)


def _floor(options: Options) -> float:
    nothing = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return _trainer(options, Floor(nn.Conv2d(3, 2, 1)), _plain_loader(), **nothing)


def _ours(options: Options) -> float:
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    with tempfile.TemporaryDirectory() as folder:
        os.environ["WANDB_MODE"], os.environ["WANDB_SILENT"] = "offline", "true"
        loggers = [MetricsFile(Path(folder)), TensorBoardLogger(folder), WandbLogger(save_dir=folder)]
        callbacks = [LearningRateMonitor(), Throughput(), ExactResume(), SegmentationMaskLogger(), QuietProgressBar()]
        callbacks += [
            SteadyCheckpoint(folder, "best", monitor="train/loss"),
            SteadyCheckpoint(folder, "last", save_on_exception=True),
        ]
        model = SemanticSegmentation(nn.Conv2d(3, 2, 1), num_classes=2, lr_scheduler=WarmupCosine)
        data = ReadyData(batch_size=4, num_workers=0)
        seconds = _trainer(
            options,
            model,
            data,
            callbacks=callbacks,
            logger=loggers,
            log_every_n_steps=50,
            profiler=NoProfiler(),
            limit_val_batches=0,
        )
        import wandb

        wandb.finish()
    return seconds


@entry
def trainer_overhead(options: Options) -> Result:
    """Microseconds a step on a network that takes none: a bare loop, Lightning's floor, ours with everything on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    runs = {"bare loop": _bare, "Lightning, everything off": _floor, "darkroom, everything on": _ours}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            times[name].append(run(options))
    medians = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    bare = medians["bare loop"]
    rows = [(name, 1e3 * t, 4 / t, float("nan"), None, t / bare) for name, t in medians.items()]
    extra = ", ".join(f"{name} {1e6 * (t - bare):.0f} us" for name, t in medians.items() if name != "bare loop")
    on = "progress bar, metrics.csv, TensorBoard, W&B offline, learning rate, throughput, checkpoints, exact resume, masks"
    notes = [
        f"More than the bare loop, a step: {extra}. Target: at most 600 us.",
        f"Everything on, logging every 50th step: {on}.",
    ]
    return Result("The frame around a step", rows, notes)
