"""A killed run resumes bit for bit."""

import csv
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.callbacks.training.checkpoint import SteadyCheckpoint
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.lightning_modules.segmentation import SemanticSegmentation
from tests.contracts.module import trainer
from tests.fakes.commands import TINY, Command
from tests.fakes.parts import TinyNetwork
from tests.faults.conftest import equal


def state(run: str) -> dict:
    return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)


def losses(run: str) -> list[tuple[str, str]]:
    rows = csv.DictReader(Path(run, "metrics.csv").open())
    return [(row["step"], row["train/loss"]) for row in rows if row["train/loss"]]


@pytest.mark.parametrize("every", ["step", "epoch", pytest.param("epoch, with max_steps", marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(darkroom: Callable, every: str) -> None:
    """Check weights, optimizer, schedule, dropout, order and augmentation, within an epoch and at its end."""
    command = [
        *("fit", "--model", "SemanticSegmentation", "--model.network", "tests.fakes.parts.TinyNetwork"),
        *("--model.network.num_classes", "6", "--model.optim.lr_scheduler", "WarmupCosine"),
        *("--data", "ShapesSegmentation", "--data.train_size", "20", "--data.val_size", "4", "--data.batch_size", "4"),
        *("--data.side", "16", "--data.augment", '[{"class_path": "torchvision.transforms.v2.RandomHorizontalFlip"}]'),
        *("--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "4", "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    ]
    if every == "step":
        command += ["--last_checkpoint.every_n_epochs", "null", "--last_checkpoint.every_n_train_steps", "3"]
    if "max_steps" in every:
        command += ["--trainer.max_steps", "100"]
    assert darkroom(*command, "--experiment", "whole").code == 0

    killer = ["--trainer.callbacks+=tests.fakes.parts.KillAt", "--trainer.callbacks.step=8"]
    assert Command(*command, "--experiment", "killed", *killer).wait() == -9
    assert state("runs/killed/0")["global_step"] == (6 if every == "step" else 5)
    assert darkroom(*command, "--experiment", "killed", "--ckpt_path", "last").code == 0

    whole, continued = state("runs/whole/0"), state("runs/killed/0")
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert equal(whole[key], continued[key]), key
    whole, continued = losses("runs/whole/0"), losses("runs/killed/0")
    assert len(whole) >= 3
    assert whole == continued  # including means over four steps, and no row of the killed run twice


def test_failed_step_is_repeated_on_resume(darkroom: Callable) -> None:
    command = [
        *("fit", "--model", "SemanticSegmentation", "--model.network", "tests.fakes.parts.TinyNetwork"),
        *("--model.network.num_classes", "6", "--data", "ShapesSegmentation", "--data.train_size", "20"),
        *("--data.val_size", "4", "--data.batch_size", "4", "--data.side", "16", "--trainer.max_epochs", "1"),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--experiment", "it"),
    ]
    failing = ["--trainer.callbacks+=tests.fakes.parts.FailAt", "--trainer.callbacks.step=3"]
    with pytest.raises(RuntimeError, match="on purpose"):
        darkroom(*command, *failing)
    assert state("runs/it/0")["global_step"] == 3
    assert darkroom(*command, "--ckpt_path", "last").code == 0
    assert state("runs/it/0")["global_step"] == 5
    assert any(row["val/mIoU"] for row in csv.DictReader(Path("runs/it/0/metrics.csv").open()))


@pytest.mark.parametrize(
    "interval", [{"every_n_train_steps": 4}, {"train_time_interval": timedelta(hours=1)}, {"every_n_epochs": 2}]
)
def test_end_of_fit_is_saved_for_any_interval(tmp_path: Path, interval: dict[str, Any]) -> None:
    saving = SteadyCheckpoint(tmp_path, "last", save_on_train_epoch_end=True, **interval)
    data = ShapesSegmentation(train_size=20, val_size=4, batch_size=4, side=16, num_workers=0)
    fitting = trainer(tmp_path, max_epochs=3, enable_checkpointing=True, callbacks=[saving])
    fitting.fit(SemanticSegmentation(TinyNetwork(6), 6), data)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 15


@pytest.mark.parametrize(("steps", "interval"), [pytest.param("7", "1.0", marks=pytest.mark.slow), ("4", "2")])
def test_fit_ended_within_epoch_resumes_rest_of_epoch(darkroom: Callable, steps: str, interval: str) -> None:
    constant = [option for option in TINY if "lr_scheduler" not in option and "WarmupCosine" not in option]
    constant += ["--trainer.val_check_interval", interval]
    assert darkroom(*constant, "--experiment", "whole", "--trainer.max_steps", "15").code == 0
    assert darkroom(*constant, "--trainer.max_steps", steps).code == 0
    assert darkroom(*constant, "--trainer.max_steps", "15", "--ckpt_path", "last").code == 0
    assert {step for step, _ in losses("runs/it/0")} >= {step for step, _ in losses("runs/whole/0")}
    whole, continued = state("runs/whole/0"), state("runs/it/0")
    for key in ("state_dict", "optimizer_states", "global_step", "epoch"):
        assert equal(whole[key], continued[key]), key


@pytest.mark.parametrize("stopped", [False, True])
def test_no_logger_gets_a_row_twice_after_resume(darkroom: Callable, stopped: bool) -> None:
    """Check the row that is logged after the checkpoint: at the end of a fit, and if it was killed before that row."""
    constant = [option for option in TINY if "lr_scheduler" not in option and "WarmupCosine" not in option]
    command = [*constant, "--trainer.logger", "tests.fakes.parts.LineLogger"]
    assert darkroom(*command, "--trainer.max_epochs", 2).code == 0
    if stopped:
        rows, lines = (Path(name).read_text().splitlines() for name in ("runs/it/0/metrics.csv", "lines.txt"))
        Path("runs/it/0/metrics.csv").write_text("\n".join(rows[:-1]) + "\n")
        Path("lines.txt").write_text("\n".join(lines[:-1]) + "\n")
    assert darkroom(*command, "--ckpt_path", "last").code == 0
    lines = [line for line in Path("lines.txt").read_text().splitlines() if "/" in line]
    assert [line for line in set(lines) if lines.count(line) > 1] == []
    assert sum("train/loss" in line for line in lines) == len(losses("runs/it/0"))
