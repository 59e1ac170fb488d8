"""Small networks, losses and callbacks that tests pass by class_path."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn


class TinyNetwork(nn.Module):
    """Network (B, C, H, W) -> (B, K, H, W) with dropout, so that resuming must restore the random state."""

    def __init__(self, num_classes: int, in_channels: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, stride, 1), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, num_classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TwoTerms(nn.Module):
    """Loss of two terms."""

    def forward(self, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {
            "cross_entropy": nn.functional.cross_entropy(logits, mask, ignore_index=255),
            "size": logits.pow(2).mean(),
        }


class NanAt(nn.Module):
    """Loss that is NaN from a given call on."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.calls_left = call

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        self.calls_left -= 1
        return logits.mean() * (torch.nan if self.calls_left < 0 else 1)


class KillAt(Callback):
    """Kill the process with SIGKILL before a given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class FailAt(Callback):
    """Raise within a given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("on purpose")


class Falling(Callback):
    """Log a metric that falls in every epoch."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("epoch_falling", -float(trainer.current_epoch))


class LineLogger(Logger):
    """Append every row of metrics to lines.txt, as loggers do that cannot remove rows."""

    name, version = "lines", ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        with Path("lines.txt").open("a") as file:
            file.write(f"{step} {' '.join(sorted(metrics))}\n")


def count_images(batch: dict) -> int:
    """Return the number of images in a batch, for ThroughputMonitor."""
    return len(batch["image"])
