"""Command line: run folders, linked arguments, checkpoints and callbacks beyond LightningCLI."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import CONFIGS


def saved(run: str = "runs/tiny/0", name: str = "config.yaml") -> dict:
    return yaml.safe_load(Path(run, name).read_text())


def hyper_parameters(run: str = "runs/tiny/0") -> dict:
    return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]


def test_fit_accepts_bare_class_names(darkroom: Callable) -> None:
    arguments = ["--model", "UNet", "--model.base_channels", 4, "--data", "ShapesSegmentation", "--data.train_size", 4]
    outcome = darkroom("fit", *arguments, "--data.val_size", 4, "--data.side", 16, "--trainer.max_steps", 1)
    assert outcome.code == 0
    assert "run folder: runs/UNet-ShapesSegmentation/0" in outcome.out


@pytest.mark.usefixtures("tiny_run")
def test_fit_writes_run_folder() -> None:
    folder = Path("runs/tiny/0")
    for name in (
        "config.yaml",
        "metrics.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "figures/val_masks/0000001.png",
    ):
        assert (folder / name).is_file(), name
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize("option", ["dropout", "weights"])
def test_option_of_network_can_be_null(darkroom: Callable, option: str) -> None:
    outcome = darkroom(
        *("fit", "--config", CONFIGS / "classification/vgg.yaml", f"--model.network.{option}", "null", "--print_config")
    )
    assert outcome.code == 0, outcome.err
    assert yaml.safe_load(outcome.out)["model"]["init_args"]["network"]["init_args"][option] is None


def test_second_run_gets_new_folder(darkroom: Callable, tiny: list[str]) -> None:
    for number in (0, 1):
        assert darkroom("fit", *tiny).code == 0
        assert Path(f"runs/tiny/{number}/config.yaml").is_file()


def test_experiments_are_named_after_their_configs(darkroom: Callable, tiny: list[str]) -> None:
    named = tiny[:2] + tiny[4:]
    assert darkroom("fit", *named, "--config", CONFIGS / "trainer/debug.yaml").code == 0
    assert Path("runs/unet/0").is_dir()


@pytest.mark.usefixtures("tiny_run")
def test_saved_config_reproduces_run(darkroom: Callable) -> None:
    assert darkroom("fit", "--config", "runs/tiny/0/config.yaml").code == 0
    assert saved("runs/tiny/1") == saved("runs/tiny/0")
    assert darkroom("test", "--config", "runs/tiny/0/config.yaml", "--ckpt_path", "best").code == 0


def test_command_line_and_later_overlays_take_precedence(darkroom: Callable, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("trainer: {max_epochs: 7, log_every_n_steps: 3}\n")
    (tmp_path / "b.yaml").write_text("trainer: {max_epochs: 8}\n")
    printed = darkroom(
        "fit", *tiny[:4], "--config", "a.yaml", "--config", "b.yaml", "--model.base_channels", 2, "--print_config"
    )
    config = yaml.safe_load(printed.out)
    assert (config["trainer"]["max_epochs"], config["trainer"]["log_every_n_steps"]) == (8, 3)
    assert config["model"]["init_args"]["base_channels"] == 2


class TestLink:
    """`num_classes` is linked from the data and saved; a contradicting value raises."""

    @pytest.mark.usefixtures("tiny_run")
    def test_linked_value_is_saved(
        self,
    ) -> None:
        assert saved()["model"]["init_args"]["num_classes"] == 6
        assert hyper_parameters()["num_classes"] == 6

    def test_contradicting_num_classes_raises(self, darkroom: Callable, tiny: list[str]) -> None:
        outcome = darkroom("fit", *tiny, "--model.num_classes", 3)
        assert outcome.code == 2
        assert "model.num_classes is 3, but ShapesSegmentation has 6" in outcome.message
        assert not Path("runs").exists() or not any(Path("runs").iterdir())

    def test_contradicting_in_channels_raises(self, darkroom: Callable, tiny: list[str]) -> None:
        outcome = darkroom("fit", *tiny, "--model.in_channels", 1)
        assert outcome.code == 2
        assert "model.in_channels is 1" in outcome.message

    def test_model_without_linked_argument_gets_no_key(self, darkroom: Callable, tiny: list[str]) -> None:
        network = ["--model", "SemanticSegmentation", "--model.network", "tests.fakes.parts.TinyNetwork"]
        outcome = darkroom("fit", *tiny[:4], *tiny[6:], *network, "--model.network.num_classes", 6)
        assert outcome.code == 0
        assert hyper_parameters()["num_classes"] == 6
        assert "image_shape" not in hyper_parameters()


class TestCheckpoint:
    """The config takes precedence and is compared with the checkpoint."""

    @pytest.mark.usefixtures("tiny_run")
    def test_checkpoint_does_not_override_config(self, darkroom: Callable, tiny: list[str]) -> None:
        again = [*tiny, "--trainer.max_epochs", 2, "--ckpt_path", "runs/tiny/0/checkpoints/last.ckpt"]
        assert darkroom("fit", *again, "--trainer.gradient_clip_val", 0.5).code == 0
        assert saved("runs/tiny/1")["trainer"]["gradient_clip_val"] == 0.5
        # a learning rate would be overridden by the optimizer's state: that is refused
        outcome = darkroom("fit", *again, "--model.optim.optimizer.lr", 0.125)
        assert outcome.code == 2
        assert "was trained with model.optim.optimizer" in outcome.message

    @pytest.mark.usefixtures("tiny_run")
    def test_resumed_run_does_not_save_ckpt_path(self, darkroom: Callable, tiny: list[str]) -> None:
        assert darkroom("fit", *tiny, "--trainer.max_epochs", 2, "--ckpt_path", "last").code == 0
        assert saved()["ckpt_path"] is None

    @pytest.mark.usefixtures("tiny_run")
    def test_last_is_checkpoint_of_newest_run(self, darkroom: Callable, tiny: list[str]) -> None:
        Path("runs/tiny/1").mkdir()  # killed before its first checkpoint
        outcome = darkroom("fit", *tiny, "--ckpt_path", "last")
        assert outcome.code == 0
        assert "runs/tiny/1 has no checkpoint yet; it starts from scratch" in outcome.err
        assert sorted(path.name for path in Path("runs/tiny").iterdir()) == ["0", "1"]

    def test_last_without_run_raises(self, darkroom: Callable, tiny: list[str]) -> None:
        outcome = darkroom("fit", *tiny, "--ckpt_path", "last")
        assert outcome.code == 2
        assert "runs/tiny does not exist; --experiment must name a folder of runs" in outcome.message

    def test_test_does_not_need_init_from_file(self, darkroom: Callable, tiny: list[str]) -> None:
        from darkroom.lightning_modules.segmentation import UNetNetwork

        torch.save(UNetNetwork(num_classes=6, base_channels=4).state_dict(), "start.pth")
        assert darkroom("fit", *tiny, "--model.init_from", "start.pth").code == 0
        Path("start.pth").unlink()
        assert darkroom("test", "--ckpt_path", "runs/tiny/0/checkpoints/best.ckpt").code == 0
        assert "start.pth does not exist" in darkroom("fit", *tiny, "--model.init_from", "start.pth").message

    def test_test_does_not_need_weights_of_network(
        self, darkroom: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from torchvision.models import mobilenet_v2

        from darkroom.lightning_modules.classification import ImageClassifier
        from darkroom.lightning_modules.layers import pretrained

        Path("classifier.yaml").write_text(
            "model: {class_path: ImageClassifier, init_args: {network: {class_path: BackboneClassifier, init_args: "
            "{backbone: mobilenet_v2, weights: imagenet}}}}\n"
            "data: {class_path: ShapesImages, init_args: {label: colour, side: 32, train_size: 4, val_size: 2, "
            "test_size: 2, batch_size: 4, num_workers: 0, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}\n"
        )
        tiny = ["--trainer.max_epochs", 1, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
        with monkeypatch.context() as patch:
            patch.setattr(pretrained, "fetch_weights", lambda *_, **__: mobilenet_v2().state_dict())
            assert darkroom("fit", "--config", "classifier.yaml", *tiny, "--experiment", "one").code == 0
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
        assert darkroom("test", "--ckpt_path", "runs/one/0/checkpoints/best.ckpt").code == 0
        ImageClassifier.load_from_checkpoint("runs/one/0/checkpoints/best.ckpt", weights_only=True)

    @pytest.mark.slow
    def test_classifier_of_windows_takes_classes_and_size_of_its_detector(self, darkroom: Callable) -> None:
        Path("windows.yaml").write_text(
            "model: {class_path: SlidingWindow, init_args: {classifier: {class_path: BackboneClassifier, init_args: "
            "{backbone: mobilenet_v2, width: 0.1}}, window: 32, sides: [32], aspect_ratios: [1], stride: 32, "
            "mode: crops}}\n"
            "data: {class_path: ShapesDetection, init_args: {side: 64, train_size: 2, val_size: 2, test_size: 2, "
            "batch_size: 2, num_workers: 0}}\n"
        )
        tiny = ["--trainer.max_epochs", 1, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
        assert darkroom("fit", "--config", "windows.yaml", *tiny, "--experiment", "one").code == 0
        assert darkroom("test", "--ckpt_path", "runs/one/0/checkpoints/best.ckpt").code == 0
        saved = yaml.safe_load(Path("runs/one/0/config.yaml").read_text())["model"]["init_args"]["classifier"][
            "init_args"
        ]
        assert saved["num_classes"] == 6
        assert saved["image_shape"] == [3, 32, 32]

    @pytest.mark.usefixtures("tiny_run")
    def test_checkpoint_of_other_class_raises(self, darkroom: Callable, tiny: list[str]) -> None:
        network = ["--model", "SemanticSegmentation", "--model.network", "tests.fakes.parts.TinyNetwork"]
        outcome = darkroom(
            "test", *tiny[:4], *tiny[6:], *network, "--model.network.num_classes", 6, "--ckpt_path", "best"
        )
        assert outcome.code == 2
        assert "holds a UNet, but the config has SemanticSegmentation" in outcome.message

    @pytest.mark.usefixtures("tiny_run")
    def test_checkpoint_of_other_width_raises(self, darkroom: Callable, tiny: list[str]) -> None:
        outcome = darkroom("test", *tiny, "--model.base_channels", 8, "--ckpt_path", "best")
        assert outcome.code == 2
        assert "was trained with model.base_channels 4, but the config has 8" in outcome.message

    def test_checkpoint_of_other_weights_raises(self, darkroom: Callable, tiny_run: Path) -> None:
        path = tiny_run / "checkpoints/best.ckpt"
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["state_dict"].pop(next(iter(checkpoint["state_dict"])))
        torch.save(checkpoint, path)
        outcome = darkroom("test", "--ckpt_path", path)
        assert outcome.code == 2
        assert "does not fit the model: network." in outcome.message

    @pytest.mark.parametrize("given", ["last", "best", "nowhere.ckpt"])
    def test_missing_checkpoint_raises(self, darkroom: Callable, tiny: list[str], given: str) -> None:
        outcome = darkroom("fit", *tiny, "--ckpt_path", given)
        assert outcome.code == 2
        assert f"ckpt_path {given}" in outcome.message

    def test_broken_checkpoint_raises(self, darkroom: Callable, tiny: list[str]) -> None:
        Path("broken.ckpt").write_bytes(b"nothing")
        outcome = darkroom("test", *tiny, "--ckpt_path", "broken.ckpt")
        assert outcome.code == 2
        assert "broken.ckpt cannot be loaded" in outcome.message

    @pytest.mark.usefixtures("tiny_run")
    def test_checkpoint_path_finds_config_of_its_run(self, darkroom: Callable) -> None:
        outcome = darkroom("test", "--ckpt_path", "runs/tiny/0/checkpoints/best.ckpt")
        assert outcome.code == 0
        assert "run folder: runs/tiny/0" in outcome.out

    @pytest.mark.usefixtures("tiny_run")
    def test_load_from_checkpoint_returns_saved_class(
        self,
    ) -> None:
        from lightning import LightningModule

        from darkroom.lightning_modules.segmentation import UNet

        for kind in (UNet, LightningModule):
            assert type(kind.load_from_checkpoint("runs/tiny/0/checkpoints/best.ckpt", weights_only=True)) is UNet

    def test_last_is_from_the_last_epoch(self, darkroom: Callable, tiny: list[str]) -> None:
        """Check last.ckpt with a metric that only gets worse, so that best.ckpt is from the first epoch."""
        worse = ["--checkpoint.mode", "max", "--checkpoint.monitor", "epoch_falling"]
        callback = ["--trainer.callbacks+=tests.fakes.parts.Falling"]
        assert darkroom("fit", *tiny, "--trainer.max_epochs", 3, *worse, *callback).code == 0
        epochs = {
            n: torch.load(f"runs/tiny/0/checkpoints/{n}.ckpt", weights_only=True)["epoch"] for n in ("best", "last")
        }
        assert epochs == {"best": 0, "last": 2}

    def test_save_last_raises(self, darkroom: Callable, tiny: list[str]) -> None:
        outcome = darkroom("fit", *tiny, "--checkpoint.save_last", "true")
        assert outcome.code == 2
        assert "save_last" in outcome.message


class TestCallbacks:
    def test_replacing_callbacks_raises(self, darkroom: Callable, tiny: list[str], tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("trainer: {callbacks: [{class_path: DeviceStatsMonitor}]}\n")
        outcome = darkroom("fit", *tiny, "--config", "mine.yaml")
        assert outcome.code == 2
        assert "callbacks+" in outcome.message
        assert "SegmentationMaskLogger" in outcome.message

    def test_appended_callback_is_kept(self, darkroom: Callable, tiny: list[str]) -> None:
        assert darkroom("fit", *tiny, "--config", CONFIGS / "trainer/early_stopping.yaml").code == 0
        names = [entry["class_path"].rsplit(".")[-1] for entry in saved()["trainer"]["callbacks"]]
        assert names == ["SegmentationMaskLogger", "PredictionWriter", "EarlyStopping"]

    def test_callbacks_null_removes_all(self, darkroom: Callable, tiny: list[str]) -> None:
        assert darkroom("fit", *tiny, "--trainer.callbacks", "null").code == 0
        assert not Path("runs/tiny/0/pictures").exists()
        assert Path("runs/tiny/0/checkpoints/last.ckpt").is_file()  # independent of the list of callbacks


@pytest.mark.slow
def test_checkpoints_and_logger_can_be_disabled(darkroom: Callable, tiny: list[str]) -> None:
    assert darkroom("fit", *tiny, "--trainer.enable_checkpointing", "false", "--trainer.logger", "false").code == 0
    assert not Path("runs/tiny/0/checkpoints").exists()
    assert darkroom("fit", *tiny, "--trainer.fast_dev_run", "true").code == 0
    bare = ["--model", "UNet", "--model.base_channels", 4, "--data", "ShapesSegmentation", "--data.train_size", 4]
    assert (
        darkroom("fit", *bare, "--data.val_size", 4, "--trainer.barebones", "true", "--trainer.max_steps", 1).code == 0
    )


def test_any_network_trains_from_yaml(darkroom: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        """
model:
  class_path: SemanticSegmentation
  init_args:
    network:
      class_path: tests.fakes.parts.TinyNetwork
      init_args: {num_classes: 6, stride: 2}
    loss: {class_path: darkroom.lightning_modules.segmentation.CrossEntropy, init_args: {class_weights: [1, 2, 2, 2, 2, 2]}}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9}}
    lr_scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 1}}
data:
  class_path: ShapesSegmentation
  init_args: {train_size: 4, val_size: 4, batch_size: 2, side: 32, num_workers: 0}
trainer: {max_epochs: 1, accelerator: cpu}
"""
    )
    assert darkroom("fit", "--config", "mine.yaml").code == 0
    assert darkroom("test", "--config", "mine.yaml", "--ckpt_path", "last", "--data.test_size", 4).code == 0


@pytest.mark.usefixtures("tiny_run")
def test_validate_evaluates_checkpoint(darkroom: Callable) -> None:
    outcome = darkroom("validate", "--ckpt_path", "runs/tiny/0/checkpoints/last.ckpt")
    assert outcome.code == 0
    assert "val/mIoU" in outcome.out
    assert Path("runs/tiny/0/validate.yaml").is_file()
    assert Path("runs/tiny/0/config.yaml").is_file()  # still the config of the fit


@pytest.mark.slow
def test_metrics_rows_survive_resume(darkroom: Callable, tiny: list[str]) -> None:
    darkroom("fit", *tiny, "--trainer.max_epochs", 2)
    before = [row for row in csv.DictReader(Path("runs/tiny/0/metrics.csv").open()) if row["val/mIoU"]]
    assert darkroom("fit", *tiny, "--trainer.max_epochs", 4, "--ckpt_path", "last").code == 0
    after = [row for row in csv.DictReader(Path("runs/tiny/0/metrics.csv").open()) if row["val/mIoU"]]
    assert [row["step"] for row in after] == ["1", "3", "5", "7"]
    assert [row["val/mIoU"] for row in after[:2]] == [row["val/mIoU"] for row in before]
    assert not Path("runs/tiny/1").exists()
