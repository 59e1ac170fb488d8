"""Tiny fits of every method on the device: losses near those of the CPU in float32, finite after training, exact resume."""

import contextlib
import csv
import io
import math
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
_STEPS = 3
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


def _fit(config: str, device: str, precision: str, folder: Path, *options: str) -> tuple[float, list[float]]:
    """Fit a config for some steps; return the validation loss before training (NaN without one) and the training losses."""
    _losses.clear()
    _starts.clear()
    trainer = {
        "callbacks": None,  # instead of the config's figures and predictions
        "accelerator": "gpu" if device == "cuda" else "cpu",
        "devices": 1,
        "precision": precision,
        "max_steps": _STEPS,
        "num_sanity_val_steps": 1,
        "limit_val_batches": 1,
        "log_every_n_steps": 1,
    }
    data = {"train_size": 64, "val_size": 8, "test_size": 8, "num_workers": 0}
    file = folder / "visit.yaml"
    file.write_text(yaml.safe_dump({"trainer": trainer, "data": {"init_args": data}}), encoding="utf-8")
    argv = ["fit", f"--config={CONFIGS / config}.yaml", f"--config={file}", f"--runs_dir={folder}", "--experiment=it"]
    argv += [f"--trainer.callbacks+={InitialLoss.__module__}.InitialLoss", "--data.batch_size=4", *options]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = darkroom(argv)
    if code:
        raise RuntimeError(printed.getvalue()[-300:])
    run = max((folder / "it").iterdir(), key=lambda path: int(path.name))
    return (_losses[0] if _losses else math.nan), _column(run / "metrics.csv", "train/loss")


def _column(path: Path, name: str) -> list[float]:
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def check_method(name: str, device: str, precisions: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield a row for each precision: is the loss of new weights that of the CPU, and is the training finite?

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
