"""Imagen on the command line: train each stage, then sample an image from a caption with the cascade."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.io import read_image

from darkroom.datamodules.shapes.captions import ShapesCaptions
from tests.conftest import CONFIGS

QUICK = ("--data.train_size", 8, "--data.val_size", 8, "--data.test_size", 8, "--data.batch_size", 4)
QUICK = (*QUICK, "--data.num_workers", 0, "--model.scores", "null", "--trainer.max_steps", 1)
BASE = ("--model.network.base_channels", 4, "--model.text.dim", 8, "--model.network.text_dim", 8)
BASE = (
    "--config",
    CONFIGS / "diffusion/imagen.yaml",
    *BASE,
    "--model.network.head_channels",
    4,
    "--model.sampling.steps",
    2,
)
UPPER = ("--model.network.channels", "[4, 8]", "--model.network.blocks", "[1, 1]", "--model.sampling.steps", 2)
UPPER = ("--config", CONFIGS / "diffusion/imagen_sr.yaml", *UPPER, "--model.network.head_channels", 8)
STAGES = ("runs/base/0/checkpoints/last.ckpt", "runs/upper/0/checkpoints/last.ckpt")
CASCADE = ("--model.base", STAGES[0], "--model.super_resolutions", f"[{STAGES[1]}]")
CASCADE = ("--config", CONFIGS / "diffusion/imagen_cascade.yaml", *CASCADE)


@pytest.fixture
def plain(tmp_path: Path) -> tuple[object, ...]:
    """Return options that remove the callbacks of a config."""
    config = tmp_path / "plain.yaml"
    config.write_text("trainer: {callbacks: null}")
    return "--config", config


@pytest.mark.slow  # fits two stages, then the cascade in two ways
def test_caption_to_image_by_command_line(darkroom: Callable, plain: tuple[object, ...]) -> None:
    for name, options in (("base", BASE), ("upper", UPPER)):
        fitted = darkroom("fit", *options, *QUICK, *plain, "--experiment", name)
        assert fitted.code == 0, fitted.err
    run = yaml.safe_load(Path("runs/base/0/config.yaml").read_text())
    assert run["model"]["init_args"]["text"]["init_args"]["words"] == ShapesCaptions().words

    written = darkroom("test", *CASCADE, *QUICK[:-4], "--model.scores.num_samples", 4, *plain)
    assert written.code == 0, written.err
    assert "test/prompt_accuracy" in written.out
    samples = []
    for size in (1, 3):
        asked = ("--data", "Prompts", "--data.captions", '["a red circle", "a star", ""]', "--data.batch_size", size)
        settings = ("--data.seed", 4, "--model.steps", "[3, 2]", "--model.guidance", "[3.0, 1.0]")
        options = (*CASCADE, "--model.scores", "null", *plain, "--trainer.callbacks+=SampleWriter", *asked, *settings)
        outcome = darkroom("predict", *options, "--experiment", f"samples{size}")
        assert outcome.code == 0, outcome.err
        files = sorted(Path(f"runs/samples{size}/0/predictions").glob("0*.png"))
        assert len(files) == 3
        assert "a-red-circle" in files[0].name
        samples.append(torch.stack([read_image(str(path)).int() for path in files]))
    assert samples[0].shape == (3, 3, 32, 32)
    assert (samples[0] - samples[1]).abs().max() <= 1  # rounding

    alone = ("--config", "runs/base/0/config.yaml", *plain, "--trainer.callbacks+=SampleWriter")
    asked = ("--data", "Prompts", "--data.captions", '["a red circle"]')
    outcome = darkroom("predict", *BASE, *alone[2:], *asked, "--model.scores", "null", "--ckpt_path", STAGES[0])
    assert outcome.code == 0, outcome.err  # the base alone, with the words of its checkpoint

    for options, message in (
        (
            ("--model.base", STAGES[1], "--model.super_resolutions", "[]"),
            "must hold a TextToImage, but holds a SuperResolution",
        ),
        (("--model.base", "nowhere.ckpt"), "model.base is nowhere.ckpt, which does not exist"),
    ):
        outcome = darkroom("test", *CASCADE, *options, *QUICK[:-4], "--model.scores", "null", *plain)
        assert outcome.code != 0
        assert message in outcome.err
    others = ("--model.text.words", str(ShapesCaptions().words[::-1]), "--ckpt_path", STAGES[0])
    outcome = darkroom("test", *BASE, *QUICK[:-2], *plain, *others)
    assert (
        "model.text.words must be those of the checkpoint" in outcome.err
    )  # the same number of words, but other words
    outcome = darkroom("predict", *CASCADE, "--data", "Prompts", "--model.scores", "null")
    assert "no 'caption'" in outcome.err
    outcome = darkroom("fit", *BASE, *QUICK, *plain, "--data", "ShapesImages")
    assert "ShapesImages has no captions" in outcome.err
    outcome = darkroom("fit", *CASCADE, "--model.scores", "null", *plain)
    assert "cannot be trained" in outcome.err
