"""Every user error ends in one message with the key or file, the problem and the remedy."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from darkroom.cli.console import explain
from darkroom.paths import install_command
from tests.conftest import CONFIGS
from tests.fakes.pictures import image_mask_folder

USAGE = {
    "unknown key": (
        ["--model.base_chanels", "4"],
        "--model.base_chanels: UNet has no such option; the nearest is --model.base_channels",
    ),
    "unknown key of a part": (
        ["--model.optim.optimizer.weight_dekay", "4"],
        "--model.optim.optimizer.weight_dekay: AdamW has no such option; the nearest is "
        "--model.optim.optimizer.weight_decay",
    ),
    "unknown key of a group": (["--model.inference.tyle", "4"], "the nearest is --model.inference.tile"),
    "unknown key of data": (["--data.trainsize", "4"], "the nearest is --data.train_size"),
    "unknown key of a callback": (
        ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monito=x"],
        "--trainer.callbacks.monito: EarlyStopping has no such option; the nearest is --trainer.callbacks.monitor",
    ),
    "key of a related method": (
        ["--model.weights", "imagenet"],
        "EncoderUNet have it\n",
    ),
    "unlike any key": (["--model.xyzzy", "4"], "--model.xyzzy: UNet has no such option\n"),
    "key of a part that does not exist": (["--model.network.x", "4"], "--model.network.x: UNet has no such option\n"),
    "key of another section": (["--model.lr", "4"], "the nearest is --model.optim.optimizer.lr"),
    "option without section": (["--batch_size", "4"], "the nearest is --data.batch_size"),
    "misspelt section": (["--modle", "UNet"], "--modle: there is no such option; the nearest is --model"),
    "abbreviated key": (
        ["--trainer.max_epoch", "4"],
        "--trainer.max_epoch: there is no such option; the nearest is --trainer.max_epochs",
    ),
    "required key of a callback": (["--trainer.callbacks+=EarlyStopping"], "--trainer.callbacks.monitor is required"),
    "dict without spaces": (["--model.inference", "{tile:3}"], "model.inference: {tile:3} is not valid YAML of a dict"),
    "wrong type": (["--model.base_channels", "four"], "model.base_channels: 'four' is invalid; it must be int\n"),
    "out of range in a group": (
        ["--model.inference.tile", "-3"],
        "model.inference.tile must be a whole number above 0, got -3",
    ),
    "unknown class of a part": (["--model.optim.optimizer", "Adamm"], "model.optim.optimizer: unknown class Adamm"),
    "wrong choice": (["--trainer.precision", "fp13"], "trainer.precision: 'fp13' is invalid; it must be"),
    "impossible value": (["--model.base_channels", "0"], "model.base_channels must be at least 1, got 0"),
    "unknown technique": (["--model", "UNett"], "unknown class UNett; it must be one of DCGAN, "),
    "unknown data": (
        ["--data", "Shapes"],
        "unknown class Shapes; it must be one of CaptionFolder, ",
    ),
    "config missing": (["--config", "nope.yaml"], "config nope.yaml does not exist"),
    "weights missing": (["--model.init_from", "nope.pth"], "nope.pth does not exist"),
}


@pytest.mark.parametrize("mistake", USAGE)
def test_wrong_usage_is_one_message(darkroom: Callable, tiny: list[str], mistake: str) -> None:
    arguments, expected = USAGE[mistake]
    outcome = darkroom("fit", *tiny, *arguments)
    assert outcome.code == 2
    assert expected in outcome.message
    assert len(outcome.message.splitlines()) <= 2
    assert not Path("runs").exists()


def test_invalid_yaml_names_file(darkroom: Callable) -> None:
    Path("bad.yaml").write_text("model: [unclosed\n")
    outcome = darkroom("fit", "--config", "bad.yaml")
    assert outcome.code == 2
    assert "bad.yaml" in outcome.message


def test_typo_in_config_names_key(darkroom: Callable, tiny: list[str]) -> None:
    for text, message in {
        "trainer: {max_epocs: 3}\n": "--trainer.max_epocs: there is no such option; the nearest is --trainer.max_epochs",
        "model: {init_args: {optim: {optimizer: {init_args: {lrr: 3}}}}}\n": "the nearest is --model.optim.optimizer.lr",
    }.items():
        Path("typo.yaml").write_text(text)
        outcome = darkroom("fit", *tiny, "--config", "typo.yaml")
        assert outcome.code == 2
        assert message in outcome.message


def test_missing_model_or_data_gives_example(darkroom: Callable) -> None:
    assert "--model and --data are required, for example --model UNet --data Shapes" in darkroom("fit").message
    assert "--data is required, for example --data ShapesSegmentation" in darkroom("fit", "--model", "UNet").message


def fit_folder(darkroom: Callable, *arguments: object) -> tuple[int, str]:
    outcome = darkroom(
        *("fit", "--config", CONFIGS / "segmentation/unet.yaml", "--model.base_channels", 4, "--trainer.max_epochs", 1),
        *(
            "--trainer.accelerator",
            "cpu",
            "--data",
            "ImageMaskFolder",
            "--data.root",
            "pictures",
            "--data.crop",
            32,
            *arguments,
        ),
        *("--data.val_fraction", 0.3),
    )
    return outcome.code, outcome.message


def test_missing_folder_is_one_message(darkroom: Callable) -> None:
    code, message = fit_folder(darkroom)
    assert code == 1
    assert "folder pictures/images does not exist" in message
    assert not Path("runs").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_named_also_from_worker(darkroom: Callable, tmp_path: Path, workers: int) -> None:
    image_mask_folder(tmp_path / "pictures")
    for path in (tmp_path / "pictures/images").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    code, message = fit_folder(darkroom, "--data.num_workers", workers)
    assert code == 1
    assert "cannot be read as an image" in message
    assert "pictures/images/photo0" in message
    assert len(message.splitlines()) == 1


def test_mask_value_beyond_classes_raises(darkroom: Callable, tmp_path: Path) -> None:
    image_mask_folder(tmp_path / "pictures", classes=5)
    code, message = fit_folder(darkroom, "--data.num_workers", 0)
    assert code == 1
    assert "there are 2 classes (0 to 1)" in message


def test_non_finite_loss_names_batch(darkroom: Callable, tiny: list[str]) -> None:
    loss = ["--model.loss", "tests.fakes.parts.NanAt", "--model.loss.call", 1]
    outcome = darkroom("fit", *tiny, *loss)
    assert outcome.code == 1
    assert "the loss is not finite since batch 1 of epoch 0: sample" in outcome.message


def test_debug_variable_shows_traceback(darkroom: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_DEBUG", "1")
    with pytest.raises(Exception, match="base_channels must be at least 1"):
        darkroom("fit", *tiny, "--model.base_channels", 0)


def test_missing_package_names_install_command(darkroom: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    message = darkroom("fit", "--config", CONFIGS / "segmentation/smp_unet.yaml").message
    assert "segmentation_models_pytorch" in message
    assert install_command("smp") in message


SMALL_UNET = ["UNet", "--model.base_channels", 4]
SMALL_SSD = ["SSD", "--model.backbone", "resnet18", "--model.width", 0.1]


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (SMALL_UNET, "ShapesImages", "UNet needs 'mask' (Tensor) in every batch, but the data deliver image (Tensor)"),
        (
            SMALL_UNET,
            "ShapesDetection",
            "UNet needs 'image' (Tensor) in every batch, but the data deliver image (list)",
        ),
        (SMALL_SSD, "ShapesSegmentation", "SSD needs 'target' (list) in every batch"),
    ],
)
def test_data_of_another_task_raises(darkroom: Callable, model: list[object], data: str, message: str) -> None:
    small = ["--data.train_size", 8, "--data.val_size", 4, "--data.side", 64, "--data.num_workers", 0]
    outcome = darkroom("fit", "--model", *model, "--data", data, *small, "--trainer.accelerator", "cpu")
    assert outcome.code == 2
    assert message in outcome.message


def test_learning_rate_finder_raises(darkroom: Callable, tiny: list[str]) -> None:
    outcome = darkroom("fit", *tiny, "--trainer.callbacks+=LearningRateFinder")
    assert outcome.code == 2
    assert "LearningRateFinder cannot set the rate of model.optim.optimizer" in outcome.message
    assert not Path("runs").exists()


def test_error_of_a_lightning_callback_is_one_message(
    darkroom: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["fit", *tiny, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/nothing"]
    outcome = darkroom(*command)
    assert outcome.code == 2
    assert "trainer.callbacks: EarlyStopping failed: Early stopping conditioned on metric" in outcome.message
    monkeypatch.setenv("DARKROOM_DEBUG", "1")
    with pytest.raises(RuntimeError, match="Early stopping conditioned on metric"):
        darkroom(*command)


def test_fit_without_validation_explains_missing_best_checkpoint(darkroom: Callable, tiny: list[str]) -> None:
    outcome = darkroom("fit", *tiny, "--trainer.max_steps", 1, "--checkpoint.monitor", "val/mIoU")
    assert outcome.code == 0
    assert outcome.err.count("checkpoint.monitor val/mIoU: no validation has run yet, so there is no best.ckpt") == 1
    assert "HINT" not in outcome.err
    assert not Path("runs/tiny/0/checkpoints/best.ckpt").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model.sampling.eta", 2, "model.sampling.eta must be a number at least 0 and at most 1, got 2"),
        ("--model.sampling.steps", 0, "model.sampling.steps must be a whole number above 0, got 0"),
        ("--model.sampling.eta", "x", "model.sampling.eta must be a number, got 'x'"),
    ],
)
def test_out_of_range_number_raises_while_parsing(darkroom: Callable, option: str, value: object, message: str) -> None:
    outcome = darkroom("fit", "--config", CONFIGS / "diffusion/ddpm.yaml", option, value)
    assert outcome.code == 2
    assert message in outcome.message


def test_failed_data_leave_the_number_of_the_run_free(darkroom: Callable, tiny: list[str]) -> None:
    own = ["--data", "ImageMaskFolder", "--data.class_names", "[background, cat]"]
    outcome = darkroom("fit", *tiny[:6], *own, "--data.root", "nowhere")
    assert outcome.code == 1
    assert not Path("runs").exists()


@pytest.mark.usefixtures("tiny_run")
def test_best_checkpoint_needs_config_or_experiment(darkroom: Callable) -> None:
    outcome = darkroom("test", "--ckpt_path", "best")
    assert outcome.code == 2
    assert "ckpt_path best must come with the --config of the fit, or with its --experiment" in outcome.message
    assert darkroom("test", "--ckpt_path", "best", "--experiment", "tiny").code == 0
    assert "does not exist" in darkroom("test", "--ckpt_path", "best", "--experiment", "other").message


def test_missing_folder_names_those_beside_it(darkroom: Callable, tiny: list[str]) -> None:
    for name in ("pictures", "labels"):
        Path("mine", name).mkdir(parents=True)
    own = ["--data", "ImageMaskFolder", "--data.class_names", "[background, cat]", "--data.root", "mine"]
    message = darkroom("fit", *tiny[:6], *own).message
    assert (
        "folder mine/images does not exist; it must hold the images. mine has the folders labels, pictures" in message
    )


def test_masks_with_another_ending_get_the_option(darkroom: Callable, tiny: list[str]) -> None:
    for folder, ending in (("images", ""), ("masks", "_mask")):
        Path("mine", folder).mkdir(parents=True)
        for name in "ab":
            Image.new("L", (8, 8)).save(f"mine/{folder}/{name}{ending}.png")
    own = ["--data", "ImageMaskFolder", "--data.class_names", "[background, cat]", "--data.root", "mine"]
    assert "if masks end in _mask, set data.mask_suffix to _mask" in darkroom("fit", *tiny[:6], *own).message


def test_list_of_names_is_called_a_list(darkroom: Callable, tiny: list[str]) -> None:
    message = darkroom("fit", *tiny[:6], "--data", "ImageMaskFolder", "--data.class_names", "background,cat").message
    assert "data.class_names: 'background,cat' is invalid; it must be list or null" in message
    assert "a list is written '[background, cat]'" in message


def test_devices_that_are_missing_are_one_message(darkroom: Callable, tiny: list[str]) -> None:
    outcome = darkroom("fit", *tiny, "--trainer.devices", "[1]")
    assert outcome.code == 2
    assert "darkroom: error: trainer" in outcome.err


def test_key_that_is_no_text_is_one_message(darkroom: Callable, tiny: list[str]) -> None:
    network = {"class_path": "torchvision.models.segmentation.fcn_resnet50", True: {"num_classes": 6}}
    model = {"class_path": "SemanticSegmentation", "init_args": {"network": network}}
    Path("odd.yaml").write_text(yaml.safe_dump({"model": model}))
    outcome = darkroom("fit", *tiny, "--config", "odd.yaml")
    assert outcome.code == 2
    assert len(outcome.message.splitlines()) <= 2
    assert "Key must be a string, got: True" in outcome.message


def test_error_of_a_killed_worker_ends_watching_of_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    def handler(signum: int, frame: object) -> None:  # of torch: it raises for every further killed worker
        raise AssertionError

    before = signal.signal(signal.SIGCHLD, handler)
    try:
        assert explain(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")) == 1
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert "a data worker process (pid 7) was killed: Killed" in capfd.readouterr().err
