"""Tiny fits of every method on the device: losses near those of the CPU, finite after training, exact resume, two ranks."""

import contextlib
import csv
import io
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.profile_steps import CONFIGS, METHODS
from darkroom.__main__ import main as darkroom

# Relative difference of the validation loss of new weights. Convolutions of a GPU in float32 are computed in TF32.
TOLERANCES = {"32-true": 2e-3, "bf16-mixed": 5e-2, "16-mixed": 2e-2}
# Precisions that are compared with the CPU's float32.
MIXED = {"cuda": ("bf16-mixed", "16-mixed"), "cpu": ("bf16-mixed",)}
_TRAINED = 5e-2  # of training losses, in which AdamW's first steps amplify rounding
_STEPS = 3
_RANKS_TIMEOUT = 40  # seconds of a fit of two processes; two such fits run
_losses: list[float] = []  # of the last fit, before training
_starts: list[int] = []  # step at which the last fit started


class InitialLoss(Callback):
    """Records ``val/loss`` of the check before training, in which weights and data are the same on every device.

    Args:
        stop_at: the fit stops after this step; 0: at its end.
    """

    def __init__(self, stop_at: int = 0) -> None:
        self.stop_at = stop_at

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _starts.append(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.stop_at:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking and "val/loss" in trainer.callback_metrics:
            _losses.append(float(trainer.callback_metrics["val/loss"]))


def _command(config: str, device: str, precision: str, folder: Path, devices: int = 1) -> list[str]:
    """Return the command line of a fit of some steps."""
    trainer = {
        "callbacks": None,  # instead of the config's figures and predictions
        "accelerator": "gpu" if device == "cuda" else "cpu",
        "devices": devices,
        "strategy": "ddp" if devices > 1 else "auto",
        "precision": precision,
        "max_steps": _STEPS,
        "num_sanity_val_steps": 1,
        "limit_val_batches": 1,
        "log_every_n_steps": 1,
    }
    data: dict[str, Any] = {"train_size": 64, "val_size": 8, "test_size": 8, "num_workers": 0}
    own = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text(encoding="utf-8"))
    if "proposals" in own["data"]["init_args"]:
        data["proposals"] = {"class_path": "GridProposals"}  # Selective Search needs OpenCV
    overlay: dict[str, Any] = {"trainer": trainer, "data": {"init_args": data}}
    if "scores" in own["model"]["init_args"]:
        overlay["model"] = {"init_args": {"scores": None}}  # their judges are trained on the CPU for minutes
    file = folder / "visit.yaml"
    file.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    argv = ["fit", f"--config={CONFIGS / config}.yaml", f"--config={file}", f"--runs_dir={folder}", "--experiment=it"]
    return [*argv, "--data.batch_size=4"]


def _fit(config: str, device: str, precision: str, folder: Path, *options: str) -> tuple[float, list[float]]:
    """Fit a config for some steps; return the validation loss before training (NaN without one) and the training losses."""
    _losses.clear()
    _starts.clear()
    argv = _command(config, device, precision, folder)
    argv += [f"--trainer.callbacks+={InitialLoss.__module__}.InitialLoss", *options]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = darkroom(argv)
    if code:
        raise RuntimeError(printed.getvalue()[-300:])
    return (_losses[0] if _losses else math.nan), _training_losses(folder)


def _fit_ranks(config: str, device: str, folder: Path) -> list[float]:
    """Fit a config by two processes, which communicate by gloo on CPUs and by NCCL on GPUs; return the training losses."""
    words = [sys.executable, "-m", "darkroom", *_command(config, device, "32-true", folder, devices=2)]
    running = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        printed, _ = running.communicate(timeout=_RANKS_TIMEOUT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)  # the second process too, if they wait for each other
    if running.returncode:
        raise RuntimeError(printed[-300:])
    return _training_losses(folder)


def _training_losses(folder: Path) -> list[float]:
    """Return the training losses of the newest run."""
    run = max((folder / "it").iterdir(), key=lambda path: int(path.name))
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # A GAN has the loss of its discriminator.
    return [float(row[name]) for row in rows for name in ("train/loss", "train/d_loss") if row.get(name)]


def check_method(name: str, device: str, precisions: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield a row for each precision: is the loss of new weights that of the CPU, and is the training finite?

    A GAN has no validation loss, so that only the second is asked.

    Args:
        name: of ``METHODS``.
        device: cpu or cuda.
        precisions: of ``TOLERANCES``.
    """
    with tempfile.TemporaryDirectory() as folder:
        expected, _ = _fit(METHODS[name], "cpu", "32-true", Path(folder))
        for precision in precisions:
            found, losses = _fit(METHODS[name], device, precision, Path(folder))
            difference = abs(found - expected) / max(abs(expected), 1e-6)
            compared = not math.isnan(expected)  # a GAN logs no val/loss
            near = difference <= TOLERANCES[precision] or not compared
            yield {
                "precision": precision,
                "loss": round(found, 5) if compared else None,
                "difference": float(f"{difference:.1e}") if compared else None,
                "right": near and len(losses) >= _STEPS and all(map(math.isfinite, losses)),
            }


def check_resume(name: str, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row: does a fit that is resumed in the middle give the losses of one that was not stopped?"""
    with tempfile.TemporaryDirectory() as folder:
        _, whole = _fit(METHODS[name], device, "32-true", Path(folder))
        _fit(METHODS[name], device, "32-true", Path(folder), "--trainer.callbacks.stop_at=2")
        _, rest = _fit(METHODS[name], device, "32-true", Path(folder), "--ckpt_path=last")
        difference = abs(rest[-1] - whole[-1]) / max(abs(whole[-1]), 1e-6)
        yield {
            "precision": "32-true",
            "loss": rest[-1],
            "difference": difference,
            "right": _starts == [2] and difference <= 1e-4,
        }


def check_ranks(name: str, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row that compares the training losses of two processes with those of two processes on the CPU.

    Two processes must have other losses than one, because their batches together are another one.

    Args:
        name: of ``METHODS``.
        device: cpu, or cuda with at least two GPUs.
    """
    with tempfile.TemporaryDirectory() as folder:
        _, alone = _fit(METHODS[name], "cpu", "32-true", Path(folder))
        expected = _fit_ranks(METHODS[name], "cpu", Path(folder))
        found = _fit_ranks(METHODS[name], device, Path(folder))
        first, *later = (abs(one - other) / max(abs(one), 1e-6) for one, other in zip(expected, found, strict=True))
        near = first <= TOLERANCES["32-true"] and max(later) <= _TRAINED
        yield {
            "precision": "32-true",
            "loss": found[-1],
            "difference": max(first, *later),
            "right": near and len(found) >= _STEPS and found != alone,
        }
