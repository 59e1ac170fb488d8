"""Warnings of the Trainer's settings."""

import platform
import warnings
from typing import Any

import pytest
import torch
from lightning import Trainer

from darkroom.cli.options.trainer_defaults import warn_of_slow_bf16


def on_processor(monkeypatch: pytest.MonkeyPatch, machine: str, capability: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def cpu_trainer(precision: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bf16_on_a_processor_without_its_instructions_warns(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_processor(monkeypatch, "x86_64", "AVX2")
    with pytest.warns(UserWarning, match=rf"trainer\.precision is {precision}.* set --trainer\.precision 32-true"):
        warn_of_slow_bf16(cpu_trainer(precision))


@pytest.mark.parametrize(
    ("precision", "machine", "capability"),
    [("32-true", "x86_64", "AVX2"), ("bf16-mixed", "x86_64", "AVX512"), ("bf16-mixed", "arm64", "DEFAULT")],
)
def test_other_precisions_and_processors_do_not_warn(
    precision: str, machine: str, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_processor(monkeypatch, machine, capability)
    trainer = cpu_trainer(precision)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_of_slow_bf16(trainer)


def test_bf16_on_another_accelerator_does_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    on_processor(monkeypatch, "x86_64", "AVX2")
    trainer = cpu_trainer("bf16-mixed")
    monkeypatch.setattr(type(trainer), "accelerator", object())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_of_slow_bf16(trainer)
