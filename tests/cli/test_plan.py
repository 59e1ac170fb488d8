"""``darkroom plan``: options, JSON, errors; no data and no weights are needed."""

import json
from collections.abc import Callable

import pytest

UNET = "configs/segmentation/unet.yaml"


def test_plan_prints_memory_time_and_length(darkroom: Callable) -> None:
    out = darkroom("plan", "--config", UNET, "--gpu", "t4").out
    assert out.startswith("method, data        UNet, ShapesSegmentation\n")
    for name in ("parameters", "memory per device", "  activations", "time per step", "recipe", "loader"):
        assert f"\n{name} " in out


def test_json_has_bytes_seconds_and_steps(darkroom: Callable) -> None:
    found = json.loads(darkroom("plan", "--config", UNET, "--devices", "8", "--price", "2", "--json").out)
    assert found["parameters"] == 1_942_662
    assert found["memory"]["total"] == pytest.approx(sum(list(found["memory"].values())[:-2]))
    assert found["images_per_step"] == 8 * found["images_per_device"]
    assert found["cost"] == pytest.approx(16 * found["hours"])
    assert found["fits"]


def test_data_need_not_be_there(darkroom: Callable) -> None:
    out = darkroom("plan", "--config", "configs/paper/autoencoding/vae.yaml").out
    assert "3,280 epochs" in out  # of the 50,000 training images of MNIST
    assert "8,200,000 steps" in out


def test_classes_in_missing_files_must_be_given(darkroom: Callable) -> None:
    recipe = ("plan", "--config", "configs/paper/classification/alexnet_imagenet.yaml")
    code, _, err = darkroom(*recipe)
    assert (code, "add --num_classes N" in err) == (2, True)
    out = darkroom(*recipe, "--num_classes", "1000", "--train_samples", "1281167").out
    assert "60,965,224" in out  # of AlexNet
    assert "90 epochs" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs a config"),
        (("--config", UNET, "--devices", "0"), "--devices must be at least 1, got 0"),
        (("--config", UNET, "--utilization", "2"), "--utilization must be a fraction in (0, 1], got 2.0"),
        (("--config", UNET, "--gpu", "abacus"), "invalid choice: 'abacus'"),
        (("--config", "missing.yaml"), "does not exist"),
    ],
)
def test_wrong_options_are_errors(darkroom: Callable, words: tuple[str, ...], message: str) -> None:
    code, _, err = darkroom("plan", *words)
    assert code == 2
    assert message in err
