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


def test_options_of_the_trainer_are_defaults(darkroom: Callable) -> None:
    config = ("plan", "--config", UNET, "--json")
    overlays = ("--config", "configs/trainer/fsdp.yaml", "--config", "configs/trainer/bf16.yaml")
    several = ("--trainer.devices", "4", "--trainer.num_nodes", "2")
    keys = "devices", "strategy", "precision"
    found = json.loads(darkroom(*config, *overlays, *several).out)
    assert [found[key] for key in keys] == [8, "fsdp", "bf16-mixed"]
    own = ("--devices", "3", "--strategy", "ddp", "--precision", "16-mixed")
    found = json.loads(darkroom(*config, *overlays, *several, *own).out)
    assert [found[key] for key in keys] == [3, "ddp", "16-mixed"]


def test_an_unknown_number_of_devices_is_named(darkroom: Callable) -> None:
    out = darkroom("plan", "--config", UNET, "--config", "configs/trainer/ddp.yaml").out
    assert "1 x h100" in out
    assert "the number of GPUs is unknown, one per node is planned: --devices N" in out


def test_a_supervised_text_encoder_is_planned(darkroom: Callable) -> None:
    out = darkroom("plan", "--config", "configs/diffusion/imagen_relations.yaml").out
    assert out.startswith("method, data        TextToImage, ShapesCaptions\n")
    assert "12,288 steps, 6 epochs" in out  # 65,536 captions in batches of 32


def test_two_optimizers_accumulate_by_the_model(darkroom: Callable) -> None:
    config = ("plan", "--config", "configs/adversarial/dcgan.yaml", "--json")
    one, four = (
        json.loads(darkroom(*config, "--model.optim.accumulate_grad_batches", count).out) for count in ("1", "4")
    )
    assert four["images_per_step"] == 4 * one["images_per_step"]
    assert four["memory"] == one["memory"]
    assert four["step_seconds"]["products"] == pytest.approx(4 * one["step_seconds"]["products"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs a config"),
        (("--config", UNET, "--devices", "0"), "--devices must be at least 1, got 0"),
        (("--config", UNET, "--utilization", "2"), "--utilization must be at most 1, got 2.0"),
        (("--config", UNET, "--utilization", "0"), "--utilization must be above 0, got 0.0"),
        (("--config", UNET, "--worker_rate", "0"), "--worker_rate must be above 0, got 0.0"),
        (("--config", UNET, "--worker_rate", "nan"), "--worker_rate must be above 0, got nan"),
        (("--config", UNET, "--price=-1"), "--price must be above 0, got -1.0"),
        (("--config", UNET, "--train_samples=-5"), "--train_samples must be above 0, got -5"),
        (("--config", UNET, "--objects", "0"), "--objects must be above 0, got 0"),
        (("--config", UNET, "--num_classes", "0"), "--num_classes must be above 0, got 0"),
        (("--config", UNET, "--image_size", "0", "32"), "--image_size must be above 0, got 0 32"),
        (("--config", UNET, "--trainer.precision", "bf16-true"), "trainer.precision must be 32-true, bf16-mixed or"),
        (("--config", UNET, "--gpu", "abacus"), "invalid choice: 'abacus'"),
        (("--config", "missing.yaml"), "does not exist"),
    ],
)
def test_wrong_options_are_errors(darkroom: Callable, words: tuple[str, ...], message: str) -> None:
    code, _, err = darkroom("plan", *words)
    assert code == 2
    assert message in err
