"""A checkpoint is used only as the model that it was trained as, on data that mean the same."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import Namespace
from PIL import Image

from darkroom.cli.checkpoint_checks import check_checkpoint
from darkroom.cli.linking import config_traits, use_saved_classes
from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.detection import CocoDetection, YoloFolder
from darkroom.datamodules.images import ImageFolder
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.errors import DataError
from darkroom.lightning_modules.detection import FastRCNN

QUIET = [
    *("--trainer.max_steps", "1", "--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0"),
    *("--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1", "--experiment", "it"),
]
IMAGES = [
    *("--data", "ShapesImages", "--data.side", "16", "--data.train_size", "8", "--data.val_size", "4"),
    *("--data.test_size", "4", "--data.batch_size", "4", "--data.num_workers", "0"),
]
DDPM = [
    *("--model", "DDPM", "--model.network", "DenoisingUNet", "--model.network.base_channels", "4"),
    *("--model.network.multipliers", "[1, 2]", "--model.network.blocks", "1", "--model.network.attention", "[]"),
    *(
        "--model.schedule",
        "LinearSchedule",
        "--model.schedule.num_steps",
        "30",
        "--model.bpd_samples",
        "2",
        "--model.sampling.steps",
        "2",
    ),
]
MODELS = {
    "DCGAN": ["--model", "DCGAN", "--model.base_channels", "4", "--model.latent_dim", "4"],
    "DDPM": DDPM,
    "VAE": ["--model", "VAE", "--model.channels", "[4, 8]", "--model.latent_dim", "2"],
    "AutoEncoder": ["--model", "AutoEncoder", "--model.channels", "[4, 8]", "--model.latent_dim", "2"],
}


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return finished runs of this module by model."""
    return {"folder": tmp_path_factory.mktemp("fits")}


@pytest.fixture
def fit(darkroom: Callable, fits: dict[str, Path]) -> Callable[[str], list[str]]:
    """Fit a model for a step, once, and return its options and those of its checkpoint."""

    def call(name: str) -> list[str]:
        command = [*MODELS[name], *IMAGES, *QUIET]
        if name not in fits:
            assert darkroom("fit", *command).code == 0
            fits[name] = Path(shutil.copytree("runs", fits["folder"] / name))
        else:
            shutil.copytree(fits[name], "runs")
        return [*command, "--ckpt_path", "runs/it/0/checkpoints/last.ckpt"]

    return call


MEANINGS = [
    ("DCGAN", "model.prior", "normal", "model.prior 'uniform', but the config has 'normal'"),
    ("DCGAN", "model.loss", "hinge", "model.loss 'non_saturating', but the config has 'hinge'"),
    ("DDPM", "model.schedule.num_steps", "100", "model.schedule.num_steps 30, but the config has 100"),
    ("DDPM", "model.objective.prediction", "v", "model.objective"),
    ("VAE", "model.free_bits", "0.1", "model.free_bits 0.0, but the config has 0.1"),
    ("AutoEncoder", "model.reconstruction", "cross_entropy", "model.reconstruction 'squared_error'"),
    ("VAE", "data.mean", "[0, 0, 0]", "normalized with mean [0.5, 0.5, 0.5] and std"),
]


# All commands share the comparison.
CASES = [("test", *case) for case in MEANINGS] + [(command, *MEANINGS[0]) for command in ("fit", "validate", "predict")]


@pytest.mark.parametrize(("command", "model", "option", "value", "reason"), CASES)
def test_settings_that_give_weights_their_meaning_are_compared(
    darkroom: Callable, fit: Callable, command: str, model: str, option: str, value: str, reason: str
) -> None:
    more = ["--data.std", "[1, 1, 1]"] if option == "data.mean" else []
    if command == "predict":
        more += ["--trainer.callbacks+=SampleWriter"]
    outcome = darkroom(command, *fit(model), f"--{option}", value, *more)
    assert outcome.code == 2
    assert reason in outcome.message
    assert len(outcome.message.splitlines()) == 1


@pytest.mark.parametrize(
    ("model", "option", "value"),
    [
        ("DDPM", "model.sampling.steps", "3"),
        ("DDPM", "model.sampling.sampler", "heun"),
        ("DDPM", "model.bpd_samples", "1"),
        ("VAE", "model.iwae_samples", "2"),
        ("VAE", "model.optim.optimizer", "SGD"),
        ("DCGAN", "model.inversion_steps", "2"),
    ],
)
def test_free_arguments_may_differ(darkroom: Callable, fit: Callable, model: str, option: str, value: str) -> None:
    more = ["--model.optim.optimizer.lr", "0.1"] if value == "SGD" else []
    assert darkroom("test", *fit(model), f"--{option}", value, *more).code == 0


def test_order_of_classes_is_compared(darkroom: Callable, tiny_run: Path) -> None:
    path = tiny_run / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["class_names"][:2] == ["background", "circle"]
    checkpoint["class_names"][:2] = ["circle", "background"]
    torch.save(checkpoint, path)
    outcome = darkroom("test", "--ckpt_path", path)
    assert outcome.code == 2
    assert "trained on classes in the order circle, background" in outcome.message
    assert "set data.class_names to the order of the checkpoint" in outcome.message


def test_other_names_of_classes_are_stated(darkroom: Callable, tiny_run: Path) -> None:
    path = tiny_run / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["class_names"][1] = "disc"
    torch.save(checkpoint, path)
    with pytest.warns(UserWarning, match="trained on the classes background, disc, .* has background, circle"):
        assert darkroom("test", "--ckpt_path", path).code == 0


def test_rate_of_pretrained_layers_is_that_of_the_fit(darkroom: Callable, tiny: list[str], tiny_run: Path) -> None:
    path = tiny_run / "checkpoints/last.ckpt"
    outcome = darkroom("fit", *tiny, "--model.optim.backbone_lr", "0.1", "--ckpt_path", path)
    assert outcome.code == 2
    assert "was trained with model.optim.backbone_lr 1.0, but the config has 0.1" in outcome.message
    outcome = darkroom("fit", *tiny, "--model.optim.backbone_lr", "0.1")
    assert "model.optim.backbone_lr is 0.1, but" in outcome.message
    assert "has no pretrained layers" in outcome.message


def test_interval_of_the_schedule_is_that_of_the_fit(darkroom: Callable, tiny: list[str], tiny_run: Path) -> None:
    outcome = darkroom("fit", *tiny, "--ckpt_path", "last", "--model.optim.lr_interval", "step")
    assert outcome.code == 2
    assert 'was trained with model.optim.lr_interval null, but the config has "step"' in outcome.message


def test_checkpoints_of_previous_version_are_compared_by_what_they_hold(darkroom: Callable, tiny_run: Path) -> None:
    path = tiny_run / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for key in ("class_names", "normalization", "samples_per_step"):
        del checkpoint[key]
    checkpoint["hyper_parameters"]["argument_of_old"] = 1
    torch.save(checkpoint, path)
    assert darkroom("test", "--ckpt_path", path).code == 0


def test_free_arguments_of_bases_add_up() -> None:
    free: Any = config_traits("darkroom.lightning_modules.diffusion.DDPM").free_arguments
    assert {"bpd_samples", "classifier", "sampling", "scores", "optim"} == set(free)


def test_optimizer_options_of_lightning_are_those_of_the_model(darkroom: Callable, tiny: list[str]) -> None:
    with pytest.warns(FutureWarning, match="--optimizer is now --model.optim.optimizer"):
        assert darkroom("fit", *tiny, "--optimizer", "SGD", "--optimizer.lr", "0.1").code == 0
    config = yaml.safe_load(Path("runs/tiny/0/config.yaml").read_text())
    optimizer = config["model"]["init_args"]["optim"]["optimizer"]
    assert (optimizer["class_path"], optimizer["init_args"]["lr"]) == ("torch.optim.SGD", 0.1)
    assert "optimizer" not in config
    outcome = darkroom("fit", *tiny, "--optimizer", "SGD", "--weights_only", "false")
    assert outcome.code == 2
    assert "weights_only" in outcome.message


def test_checkpoint_with_trained_norms_fits_frozen_ones(tmp_path: Path) -> None:
    """Check a checkpoint from before ``freeze`` included the batch norms, whose counters it has."""
    trained, frozen = (FastRCNN(5, backbone="vgg11_bn", width=0.02, freeze=count) for count in (0, 2))
    config = Namespace(class_path="FastRCNN", init_args=Namespace())
    path = tmp_path / "trained.ckpt"
    torch.save({"state_dict": trained.state_dict(), "hyper_parameters": {"_class_path": "FastRCNN"}}, path)
    check_checkpoint(path, frozen, config, ShapesDetection(), resuming=False)
    frozen.load_state_dict(trained.state_dict())


@pytest.mark.parametrize(
    ("data", "ids"), [(ImageFolder(root="absent"), None), (CocoDetection(root="absent"), (3, 7)), (YoloFolder(), None)]
)
def test_classes_of_checkpoint_replace_missing_data(data: VisionDataModule, ids: tuple[int, ...] | None) -> None:
    torch.save({"state_dict": {}, "class_names": ["cat", "dog"], "category_ids": ids and list(ids)}, "best.ckpt")
    use_saved_classes(data, "best.ckpt")
    assert data.class_names == ("cat", "dog")
    assert not isinstance(data, CocoDetection) or data.category_ids == ids


def test_missing_data_are_named_if_the_checkpoint_has_no_classes() -> None:
    torch.save({"state_dict": {}}, "best.ckpt")
    with pytest.raises(DataError, match="absent does not exist"):
        use_saved_classes(ImageFolder(root="absent"), "best.ckpt")


@pytest.mark.slow
def test_photos_are_predicted_without_the_training_data(darkroom: Callable) -> None:
    for path in [Path("mine", split, kind, "0.png") for split in ("train", "val", "test") for kind in ("cat", "dog")]:
        path.parent.mkdir(parents=True)
        Image.new("RGB", (16, 16), (200, 30, 90)).save(path)
    options = ["--model", "ImageClassifier", "--model.network", "BackboneClassifier", "--model.network.width", "0.0625"]
    options += ["--model.network.backbone", "vgg11_bn", "--model.network.head", "pooled"]
    options += ["--data", "ImageFolder", "--data.root", "mine", "--data.size", "32", "--data.num_workers", "0"]
    assert darkroom("fit", *options, "--trainer.callbacks+=ClassificationWriter", *QUIET).code == 0
    shutil.move("mine/test/cat", "photos")
    shutil.rmtree("mine")
    done = darkroom("predict", "--ckpt_path", "runs/it/0/checkpoints/last.ckpt", "--data.predict", "photos")
    assert done.code == 0, done.err
    table = Path("runs/it/0/predictions/predictions.csv").read_text()
    assert "cat" in table or "dog" in table
