"""Ensembles of checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation import Ensemble, UNet


@pytest.fixture
def checkpoints(darkroom: Callable, tiny: list[str]) -> list[str]:
    for seed in (0, 1):
        assert darkroom("fit", *tiny, "--seed_everything", seed, "--model.base_channels", 2).code == 0
    return [str(Path(f"runs/tiny/{run}/checkpoints/last.ckpt").resolve()) for run in (0, 1)]


def test_ensemble_multiplies_probabilities_of_members(checkpoints: list[str]) -> None:
    ensemble = Ensemble(checkpoints).eval()
    image = torch.randn(2, 3, 32, 32)
    members = [UNet.load_from_checkpoint(path).eval() for path in checkpoints]
    product = members[0](image).softmax(1) * members[1](image).softmax(1)
    assert torch.equal(ensemble.predict_step({"image": image}), product.argmax(1))


@pytest.mark.slow  # trains its members first
def test_ensemble_is_tested_on_command_line(darkroom: Callable, checkpoints: list[str]) -> None:
    command = ["--model", "Ensemble", "--model.members", str(checkpoints), "--data", "ShapesSegmentation"]
    command += ["--data.test_size", "4", "--data.side", "32", "--trainer.accelerator", "cpu"]
    outcome = darkroom("test", *command)
    assert outcome.code == 0, outcome.err
    assert "test/mIoU" in outcome.out
    assert "cannot be trained" in darkroom("fit", *command).message


@pytest.mark.slow
def test_ensemble_names_the_missing_member(tmp_path: Path, checkpoints: list[str]) -> None:
    with pytest.raises(UsageError, match="two checkpoints"):
        Ensemble(checkpoints[:1])
    with pytest.raises(UsageError, match="gone.ckpt does not exist"):
        Ensemble([checkpoints[0], "gone.ckpt"])
    with pytest.raises(UsageError, match="must have 4 classes, got 6"):
        Ensemble(checkpoints, num_classes=4)
