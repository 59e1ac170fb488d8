"""Ensembles of checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation import Ensemble, UNet


@pytest.fixture
def checkpoints(tiny_run: Path) -> list[str]:
    """Return a checkpoint of a fit, and the same with other weights."""
    first, second = (tiny_run.resolve() / f"checkpoints/{name}.ckpt" for name in ("last", "other"))
    content = torch.load(first, weights_only=True)
    content["state_dict"] = {
        name: value + 0.1 * torch.rand(value.shape) if value.is_floating_point() else value
        for name, value in content["state_dict"].items()
    }
    torch.save(content, second)
    return [str(first), str(second)]


@pytest.mark.slow
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
