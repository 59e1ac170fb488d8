"""Every YAML trains two steps on a fake dataset in the real layout.

The unit lane has one config of each family, the slow lane all others.
"""

import re
from collections.abc import Callable, Container, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from _pytest.mark import ParameterSet

from tests.conftest import CONFIGS
from tests.fakes.boxes import DETECTION_FAKES
from tests.fakes.captions import CAPTION_FAKES
from tests.fakes.labelled import LABELLED_FAKES
from tests.fakes.pictures import FAKES

# Base configs of overlays.
BASES = {
    "classification": CONFIGS / "classification/vgg.yaml",
    "segmentation": CONFIGS / "segmentation/unet.yaml",
    "detection": CONFIGS / "detection/yolo.yaml",
    "autoencoding": CONFIGS / "autoencoding/vae.yaml",
    "adversarial": CONFIGS / "adversarial/dcgan.yaml",
    "diffusion": CONFIGS / "diffusion/ddpm.yaml",
}
FAMILIES = tuple(BASES)
CAPTIONED = CONFIGS / "diffusion/imagen.yaml"  # base config of overlays of captioned data
ALL = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
EXPERIMENTS = [name for name in ALL if not name.startswith("sweep/")]  # sweeps are tested in test_sweeps.py
# Arguments of small models, and arguments that tests remove: downloaded weights and checkpoints of earlier stages.
SMALL = {
    "ImageClassifier": {"network.width": 0.03},
    "UNet": {"base_channels": 4},
    "EncoderUNet": {"width": 0.05, "base_channels": 2},
    "FCN": {"width": 0.03},
    "DeconvNet": {"width": 0.03, "window": 32},
    "DilatedNet": {"width": 0.03},
    "ConvolutionalizedClassifier": {"width": 0.03, "window": 32, "windows_per_image": 2, "stitch": 1},
    "SemanticSegmentation": {},
    "SlidingWindow": {"channels": 4, "sides": [20.0, 30.0]},
    "RCNN": {"width": 0.03, "window": 64, "regions": 16},
    "FastRCNN": {"width": 0.03, "min_side": 64, "max_side": 128},
    "FasterRCNN": {
        "width": 0.125,
        "norm": "batch",
        "min_side": 64,
        "max_side": 128,
        "head_channels": 16,
        "roi_samples": 16,
        "proposals": [20, 20],
    },
    "MaskRCNN": {
        "width": 0.125,
        "norm": "batch",
        "min_side": 64,
        "max_side": 128,
        "head_channels": 16,
        "mask_channels": 8,
        "roi_samples": 16,
        "proposals": [20, 20],
    },
    "SSD": {"width": 0.25, "norm": "batch"},
    "YOLO": {"width": 0.03},
    "ObjectDetection": {},
    "AutoEncoder": {"channels": [4, 8]},
    "VAE": {"channels": [4, 8]},
    "ConditionalVAE": {"channels": [4, 8]},
    "DCGAN": {"base_channels": 4, "inversion_steps": 5},
    "DDPM": {
        "network.base_channels": 4,
        "network.multipliers": [1, 2],
        "network.blocks": 1,
        "network.attention": [],
        "network.head_channels": 4,
        "schedule.num_steps": 50,
        "bpd_samples": 2,
        "sampling.steps": 2,
    },
    "NoisyClassifier": {
        "network.base_channels": 4,
        "network.multipliers": [1, 2],
        "network.blocks": 1,
        "network.attention": [],
        "network.head_channels": 4,
        "schedule.num_steps": 50,
    },
    "TextToImage": {
        "network.base_channels": 4,
        "network.multipliers": [1, 2],
        "network.blocks": 1,
        "network.attention": 8,
        "network.head_channels": 4,
        "sampling.steps": 2,
    },
    "SuperResolution": {
        "network.channels": [4, 8],
        "network.blocks": [1, 1],
        "network.head_channels": 8,
        "sampling.steps": 2,
    },
}
SMALL_NETWORKS = {
    "torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn": {
        "min_size": 64,
        "max_size": 64,
        "rpn_post_nms_top_n_train": 20,
        "rpn_post_nms_top_n_test": 20,
        "box_batch_size_per_image": 16,
    },
}
ABSENT = ("weights", "init_from", "classifier")
PAPER_DATA = {
    "VOCSegmentation": "voc2012_sbd",
    "ImageMaskFolder": "cells",
    "VOCDetection": "voc0712",
    "CocoDetection": "coco",
    "MNIST": "mnist",
    "CelebA": "celeba",
    "CIFAR10": "cifar10",
    "ImageFolder": "image_folder",
    "CaptionFolder": "captions",
    "ShardedCaptions": "web_shards",
}
PACKAGED = ("digits",)  # data sets that lie in an installed package
HEADLINE = {
    "classification": "test/accuracy",
    "segmentation": "test/mIoU",
    "detection": "test/mAP",
    "autoencoding": "test/loss",
    "adversarial": "test/cnn_fid",
    "diffusion": "test/loss",
}
SMALL_DATA = {
    "classification": {"data.size": 72, "data.crop": 68},  # CaffeNet needs 67 pixels
    "segmentation": {"data.crop": 32},
    "detection": {"data.max_side": 64},
    "autoencoding": {},
    "adversarial": {},
    "diffusion": {},
}
COMPOSED = (
    "diffusion/imagen_cascade.yaml",
    "diffusion/captions/imagen_emoji_cascade.yaml",
)  # stages are trained separately, see test_imagen_cli.py
STAGED = ("RCNN",)  # its stages are epochs, all needed for a fit


@cache
def text_of(name: str) -> str:
    return (CONFIGS / name).read_text()


@cache
def config_of(name: str) -> dict[str, Any]:
    """Parse a config once per process; callers must not change it."""
    return yaml.safe_load(text_of(name))


def one_per_method(names: Iterable[str]) -> list[str]:
    """Select the first experiment of each class of model."""
    found: dict[str, str] = {}
    for name in names:
        if name.startswith(FAMILIES) and name not in COMPOSED:
            found.setdefault(config_of(name)["model"]["class_path"], name)
    return list(found.values())


def in_lanes(names: Iterable[str], unit: Container[str]) -> list[ParameterSet]:
    """Parametrize by config: those of ``unit`` in the unit lane, the others in the slow lane."""
    return [pytest.param(name, marks=[] if name in unit else pytest.mark.slow) for name in names]


def on_shapes(name: str) -> bool:
    return name.startswith(FAMILIES) and config_of(name)["data"]["class_path"].startswith("Shapes")


def family_of(name: str) -> str:
    """Return the family of an experiment, or of the base config of an overlay."""
    if name == "trainer/fsdp.yaml":
        return "diffusion"
    folder = next((part for part in Path(name).parts if part in FAMILIES), Path(name).parent.name)
    return {"images": "autoencoding", "captions": "diffusion"}.get(
        folder, folder if folder in FAMILIES else "segmentation"
    )


def small(config: dict[str, Any], fake: Path, family: str, data_of: str) -> list[object]:
    """Return arguments for a small model and a fake dataset."""
    model, data = config["model"], config["data"]
    arguments = {f"model.{name}": value for name, value in SMALL[model["class_path"]].items()}
    arguments |= {f"model.{name}": "null" for name in ABSENT if name in model["init_args"]}
    network = model["init_args"].get("network", {})
    few = SMALL_NETWORKS.get(network.get("class_path"), {})
    arguments |= {f"model.network.init_args.{name}": value for name, value in few.items()}
    if "scores" in model["init_args"] and data_of not in CAPTION_FAKES:
        arguments["model.scores.num_samples"] = 4
    if data_of == "shapes":
        arguments |= {f"data.{split}_size": 4 for split in ("train", "val", "test")}
        arguments |= {"data.side": 32} if family != "detection" else {}
    elif data_of not in PACKAGED:
        (FAKES | DETECTION_FAKES | LABELLED_FAKES | CAPTION_FAKES)[data_of](fake)
        arguments |= {"data.root": fake, **SMALL_DATA[family]}
    if data["class_path"] == "ImageFolder":  # a hundredth of the small fake would be empty
        arguments |= {"data.val_fraction": 0.2, "data.test_fraction": 0.2, "data.size": 32}
        arguments |= SMALL_DATA[family]
    if data_of in CAPTION_FAKES:
        arguments |= {"data.size": 32}
        if data_of == "captions":
            arguments |= {"data.val_fraction": 0.2, "data.test_fraction": 0.2}
            arguments |= {"data.keep": "null", "data.caption_columns": "[caption]"}
        if "text" in model["init_args"]:  # weights of T5 are not available
            arguments |= {"model.text": "LearnedTextEncoder", "model.text.dim": 8, "model.network.text_dim": 8}
        arguments |= {"model.crop": 16} if "crop" in model["init_args"] else {}
    if "val_check_interval" in config["trainer"]:  # the interval is in steps, and epochs are short
        arguments |= {"trainer.val_check_interval": 1.0, "last_checkpoint.every_n_train_steps": 1}
    if "proposals" in data["init_args"]:
        arguments |= {"data.proposals_dir": "proposals", "data.proposal_workers": 0}
    arguments |= {"trainer.max_epochs": 3} if model["class_path"] in STAGED else {"trainer.max_steps": 2}
    arguments |= {"data.batch_size": 2, "data.num_workers": 0, "trainer.accelerator": "cpu"}
    return [part for name, value in arguments.items() for part in (f"--{name}", value)]


@pytest.fixture(scope="module")
def trained_classifiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache folder of trained classifiers, shared by all configs with the same data."""
    return tmp_path_factory.mktemp("cache")


# One config of each family; the contracts train every method in the unit lane.
UNIT = [path.relative_to(CONFIGS).as_posix() for path in BASES.values()]


@pytest.mark.parametrize("name", in_lanes([name for name in EXPERIMENTS if name not in COMPOSED], UNIT))
def test_config_trains_two_steps_and_tests(
    darkroom: Callable, tmp_path: Path, trained_classifiers: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained_classifiers))
    kind, family = name.split("/")[0], family_of(name)
    text, base = text_of(name), CAPTIONED if kind == "data" and "captions" in Path(name).parts else BASES[family]
    alone = kind in (*FAMILIES, "paper")
    config = config_of(name if alone else base.relative_to(CONFIGS).as_posix())
    for package, sign in {
        "segmentation_models_pytorch": "segmentation_models_pytorch",
        "cv2": "SelectiveSearch",
    }.items():
        if sign in text:
            pytest.importorskip(package)
    data_of = Path(name).stem if kind == "data" else PAPER_DATA.get(config["data"]["class_path"], "shapes")
    data_of = "shapes" if kind == "data" and config_of(name)["data"]["class_path"].startswith("Shapes") else data_of
    base = ["--config", CONFIGS / name] if alone else ["--config", base, "--config", CONFIGS / name]
    base += [*small(config, tmp_path / "fake", family, data_of), "--trainer.check_val_every_n_epoch", 1]
    base += ["--experiment", "it"]
    outcome = darkroom("fit", *base)
    assert outcome.code == 0, outcome.err
    assert Path("runs/it/0/checkpoints/last.ckpt").is_file()
    outcome = darkroom("test", *base, "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err
    assert HEADLINE[family] in outcome.out


@pytest.mark.parametrize("name", ALL)
def test_config_starts_with_its_result(name: str) -> None:
    first, *rest = text_of(name).split("\n")
    assert re.match(r"# \w.{20,}", first)
    head = " ".join([first, *(line for line in rest[:8] if line.startswith("#"))])
    if name.startswith(FAMILIES):
        score = (
            r"(accuracy 0\.\d{3}|mIoU 0\.\d{3}|VOC AP50 0\.\d{3}(?:, COCO AP 0\.\d{3})?(?:, masks 0\.\d{3})?"
            r"|ELBO -?\d+ nats|squared error \d+\.\d|cnn_fid \d+\.\d(?:, samples of the class 0\.\d{3})?)"
        )
        score += r"|(samples of the caption 0\.\d{3}|\d+\.\d% match the caption|PSNR \d+\.\d(?:, bicubic \d+\.\d)?)"
        score = rf"({score}) in \d+ (min|s)\b"
        assert re.search(score, head) or "not measured here" in head
    if name.startswith("paper/"):
        assert "Not run here" in head
