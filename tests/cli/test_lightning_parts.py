"""Every callback, strategy and Trainer option of Lightning works from the command line, or is refused in one message."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import callbacks
from lightning.pytorch.strategies import StrategyRegistry

from tests.fakes.commands import Command

pytestmark = pytest.mark.slow

FIT = [
    *("fit", "--model", "SemanticSegmentation", "--model.network", "tests.fakes.parts.TinyNetwork"),
    *("--model.network.num_classes", "6", "--data", "ShapesSegmentation", "--data.train_size", "8"),
    *("--data.val_size", "4", "--data.batch_size", "4", "--data.side", "16", "--data.num_workers", "0"),
    *("--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--experiment", "it"),
]
# What callbacks need, and the reason why one is refused.
ARGUMENTS = {
    "EarlyStopping": ["--trainer.callbacks.monitor", "val/mIoU", "--trainer.callbacks.mode", "max"],
    "GradientAccumulationScheduler": ["--trainer.callbacks.scheduling", "{0: 2}"],
    "ModelPruning": ["--trainer.callbacks.pruning_fn", "l1_unstructured", "--trainer.callbacks.amount", "0.5"],
    "OnExceptionCheckpoint": ["--trainer.callbacks.dirpath", "saved"],
    "StochasticWeightAveraging": ["--trainer.callbacks.swa_lrs", "0.01"],
    "ThroughputMonitor": ["--trainer.callbacks.batch_size_fn", "tests.fakes.parts.count_images"],
    "Timer": ["--trainer.callbacks.duration", "00:00:01:00"],
}
REFUSED = {
    "BackboneFinetuning": "set model.optim.freeze_epochs and model.optim.backbone_lr instead",
    "BaseFinetuning": "is a base class",
    "BasePredictionWriter": "is a base class",
    "Callback": "is a base class",
    "Checkpoint": "is a base class",
    "DeviceStatsMonitor": "psutil",
    "LearningRateFinder": "cannot set the rate",
    "ProgressBar": "is a base class",
}
OF_OTHER_HARDWARE = ("deepspeed", "fsdp", "hpu", "xla", "single_xla", "single_tpu", "tpu")


@pytest.mark.parametrize("name", callbacks.__all__)
def test_callbacks_work_or_are_refused(darkroom: Callable, name: str) -> None:
    outcome = darkroom(*FIT, f"--trainer.callbacks+={name}", *ARGUMENTS.get(name, []))
    if name in REFUSED:
        assert (outcome.code, len(outcome.message.splitlines())) == (2, 1)
        assert f"trainer.callbacks: {name}" in outcome.message
        assert REFUSED[name] in outcome.message
    else:
        assert outcome.code == 0, outcome.message
        assert Path("runs/it/0/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("name", StrategyRegistry.available_strategies())
def test_strategies_work_or_are_refused(tiny: list[str], name: str) -> None:
    options = ["--trainer.strategy", name, "--trainer.devices", "1" if name == "single_device" else "2"]
    if name.startswith("ddp") and "spawn" not in name:  # these start ranks, which a forked process cannot
        command = [sys.executable, "-m", "darkroom", "fit", *tiny, *options]
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path.cwd())
        code, text = outcome.returncode, outcome.stderr
    else:
        forked = Command("fit", *tiny, *options)
        code, text = forked.wait(), forked.text
    if "spawn" in name or name.startswith(OF_OTHER_HARDWARE):
        assert code == 2, text
        assert "Traceback" not in text
        assert "darkroom: error: " in text
    else:
        assert code == 0, text
        assert Path("runs/tiny/0/checkpoints/last.ckpt").is_file()


OPTIONS = [
    ("accumulate_grad_batches", "2"),
    ("barebones", "true"),
    ("benchmark", "true"),
    ("check_val_every_n_epoch", "2"),
    ("default_root_dir", "elsewhere"),
    ("detect_anomaly", "true"),
    ("deterministic", "true"),
    ("enable_autolog_hparams", "false"),
    ("enable_checkpointing", "false"),
    ("enable_model_summary", "false"),
    ("enable_progress_bar", "false"),
    ("fast_dev_run", "true"),
    ("gradient_clip_algorithm", "value"),
    ("gradient_clip_val", "0.5"),
    ("inference_mode", "false"),
    ("limit_predict_batches", "1"),
    ("limit_test_batches", "1"),
    ("limit_train_batches", "0.5"),
    ("limit_val_batches", "0"),
    ("log_every_n_steps", "1"),
    ("logger", "false"),
    ("max_steps", "3"),
    ("max_time", "00:00:01:00"),
    ("min_epochs", "1"),
    ("min_steps", "1"),
    ("model_registry", "somewhere"),
    ("num_sanity_val_steps", "0"),
    ("overfit_batches", "1"),
    ("precision", "bf16-mixed"),
    ("profiler", "simple"),
    ("reload_dataloaders_every_n_epochs", "1"),
    ("sync_batchnorm", "true"),
    ("use_distributed_sampler", "false"),
    ("val_check_interval", "0.5"),
]


@pytest.mark.parametrize(("name", "value"), OPTIONS)
def test_trainer_options_work(darkroom: Callable, name: str, value: str) -> None:
    outcome = darkroom(*FIT, f"--trainer.{name}", value)
    assert outcome.code == 0, outcome.message
