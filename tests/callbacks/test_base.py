"""Figures of a run, predictions on a folder of photos, and the Protocols that callbacks use."""

import csv
import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning import Trainer
from PIL import Image
from typing_extensions import get_protocol_members

from darkroom import protocols
from darkroom.callbacks.base import _rejected_arguments
from darkroom.datamodules.prediction.videos import Video
from darkroom.lightning_modules.adversarial.dcgan import DCGAN
from darkroom.lightning_modules.autoencoding.autoencoder import AutoEncoder
from darkroom.lightning_modules.autoencoding.conditional_vae import ConditionalVAE
from darkroom.lightning_modules.autoencoding.vae import VAE
from darkroom.lightning_modules.diffusion.ddpm import DDPM
from darkroom.lightning_modules.diffusion.imagen.cascade import ImagenCascade
from darkroom.lightning_modules.diffusion.imagen.super_resolution import SuperResolution
from darkroom.lightning_modules.diffusion.imagen.text_to_image import TextToImage
from tests.conftest import CONFIGS
from tests.fakes.video import needs_ffmpeg, write_video


def test_validation_figures_show_same_scenes(darkroom: Callable, tiny: list[str]) -> None:
    assert darkroom("fit", *tiny, "--trainer.max_epochs", 2).code == 0
    first, second = sorted(Path("runs/tiny/0/figures/val_masks").glob("*.png"))
    assert (first.name, second.name) == ("0000001.png", "0000003.png")  # the steps of metrics.csv, which count from 0
    first, second = (np.array(Image.open(path)) for path in (first, second))
    rows = first.shape[0] // 4
    assert np.array_equal(first[: 2 * rows - 20], second[: 2 * rows - 20])  # input and truth


@pytest.mark.usefixtures("tiny_run")
def test_test_logs_figures_and_prints_their_path(darkroom: Callable, tiny: list[str]) -> None:
    outcome = darkroom("test", *tiny, "--ckpt_path", "best")
    assert outcome.code == 0
    assert "test/mIoU" in outcome.out
    image = next(line for line in outcome.out.splitlines() if "test_masks" in line).split(": ")[1]
    assert Image.open(image).width > 500


@pytest.mark.usefixtures("tiny_run")
def test_predict_writes_masks_overlays_and_areas(darkroom: Callable, tiny: list[str], tmp_path: Path) -> None:
    sizes = {"dog": (50, 30), "cat": (33, 47), "bird": (64, 64)}
    (tmp_path / "photos").mkdir()
    for name, size in sizes.items():
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / f"photos/{name}.jpg")
    outcome = darkroom(
        "predict",
        *tiny,
        "--ckpt_path",
        "best",
        "--data.predict",
        "photos",
        "--data.max_side",
        40,
    )
    assert outcome.code == 0
    folder = Path("runs/tiny/0/predictions")
    rows = {row["name"]: row for row in csv.DictReader((folder / "areas.csv").open())}
    for name, size in sizes.items():
        mask = Image.open(folder / f"masks/{name}.png")
        assert mask.size == size  # size of the file; the network got a smaller image
        assert max(Image.open(folder / f"overlays/{name}.png").size) <= 40
        counts = np.bincount(np.array(mask).ravel(), minlength=6).tolist()
        classes = ("background", "circle", "square", "triangle", "star", "cross")
        assert [int(rows[name][c]) for c in classes] == counts
        assert int(rows[name]["width"]) * int(rows[name]["height"]) == sum(counts)


@pytest.mark.usefixtures("tiny_run")
@needs_ffmpeg
def test_predict_writes_overlays_and_areas_of_video(darkroom: Callable, tiny: list[str], tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", [np.full((32, 48, 3), 40 * index, np.uint8) for index in range(5)])
    outcome = darkroom("predict", *tiny, "--ckpt_path", "best", "--data.predict", tmp_path / "film.mp4")
    assert outcome.code == 0, outcome.err
    with Path("runs/tiny/0/predictions/videos/film.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert len(Video(Path("runs/tiny/0/predictions/videos/film.mp4"))) == 5


@pytest.mark.usefixtures("tiny_run")
def test_predict_defaults_to_test_split(darkroom: Callable, tiny: list[str]) -> None:
    assert darkroom("predict", *tiny, "--ckpt_path", "last").code == 0
    assert len(list(Path("runs/tiny/0/predictions/masks").glob("*.png"))) == 4


@pytest.mark.usefixtures("tiny_run")
def test_predict_keeps_no_predictions_in_memory(
    darkroom: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(Trainer, "predict", wraps(Trainer.predict)(lambda self, *args, **kwargs: given.update(kwargs)))
    assert darkroom("predict", *tiny, "--ckpt_path", "last").code == 0
    assert given["return_predictions"] is False


def test_predict_without_writer_raises(darkroom: Callable) -> None:
    outcome = darkroom("predict", "--model", "UNet", "--model.base_channels", 4, "--data", "ShapesSegmentation")
    assert outcome.code == 2
    assert "PredictionWriter" in outcome.message


@pytest.mark.usefixtures("tiny_run")
def test_throughput_and_learning_rate_are_logged() -> None:
    rows = list(csv.DictReader(Path("runs/tiny/0/metrics.csv").open()))
    assert [float(r["train/images_per_second"]) > 0 for r in rows if r["train/images_per_second"]] == [True, True]
    assert any(row["lr-AdamW"] for row in rows)


def test_tensorboard_logs_figures_and_metrics(darkroom: Callable, tiny: list[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert darkroom("fit", *tiny, "--config", CONFIGS / "logger/tensorboard.yaml").code == 0
    events = EventAccumulator("runs/tiny/0/tensorboard")
    events.Reload()
    assert "val_masks" in events.Tags()["images"]
    assert {"val/mIoU", "train/loss"} <= set(events.Tags()["scalars"])


_LATENT = (AutoEncoder, VAE, ConditionalVAE, DCGAN, DDPM)
_FULFILS = [
    *((model, protocols.SamplingModel) for model in _LATENT),
    *((model, protocols.ReconstructionModel) for model in _LATENT),
    *((model, protocols.LatentModel) for model in _LATENT),
    (DDPM, protocols.DiffusionModel),
    (TextToImage, protocols.TextModel),
    (TextToImage, protocols.WordMapModel),
    (TextToImage, protocols.CascadeStage),
    (ImagenCascade, protocols.TextModel),
    (ImagenCascade, protocols.CascadeModel),
    (SuperResolution, protocols.UpsamplingModel),
    (SuperResolution, protocols.AugmentedStage),
]


@pytest.mark.parametrize(("model", "protocol"), _FULFILS)
def test_models_implement_protocols_of_callbacks(model: type, protocol: type) -> None:
    methods = [name for name in get_protocol_members(protocol) if inspect.isfunction(getattr(protocol, name, None))]
    assert methods
    for name in methods:
        assert callable(getattr(model, name, None)), name
        assert not _rejected_arguments(model, protocol, name), name
