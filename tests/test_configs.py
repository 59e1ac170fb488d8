"""Every YAML trains: found by glob, two steps on a fake of the real layout."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import CONFIGS
from tests.fakes.pictures import FAKES

BASE = CONFIGS / "segmentation/unet.yaml"
ALL = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
# What makes a technique small, and what a test has not: weights to download, checkpoints of an earlier stage.
SMALL = {
    "UNet": {"base_channels": 4},
    "FCN": {"width": 0.03},
    "DeconvNet": {"width": 0.03, "window": 32},
    "DilatedNet": {"width": 0.03},
    "ConvolutionalizedClassifier": {"width": 0.03, "window": 32, "windows_per_image": 2},
    "SemanticSegmentation": {},
}
ABSENT = ("weights", "init_from")
PAPER_DATA = {"VOCSegmentation": "voc2012_sbd", "ImageMaskFolder": "cells"}


def small(config: dict[str, Any], fake: Path, data_of: str) -> list[object]:
    """Arguments that make an experiment small enough for a test, and its data a fake."""
    model = config["model"]
    arguments = {f"model.{name}": value for name, value in SMALL[model["class_path"]].items()}
    arguments |= {f"model.{name}": "null" for name in ABSENT if name in model["init_args"]}
    if data_of == "shapes":
        arguments |= {f"data.{split}_size": 4 for split in ("train", "val", "test")} | {"data.side": 32}
    else:
        FAKES[data_of](fake)
        arguments |= {"data.root": fake, "data.crop": 32}
    arguments |= {"data.batch_size": 2, "data.num_workers": 0, "trainer.accelerator": "cpu", "trainer.max_steps": 2}
    return [part for name, value in arguments.items() for part in (f"--{name}", value)]


@pytest.mark.parametrize("name", ALL)
def test_trains_two_steps_and_tests(darkroom: Callable, tmp_path: Path, name: str) -> None:
    kind, own = name.split("/")[0], yaml.safe_load((CONFIGS / name).read_text())
    alone = kind in ("segmentation", "paper")
    config = own if alone else yaml.safe_load(BASE.read_text())
    if "segmentation_models_pytorch" in (CONFIGS / name).read_text():
        pytest.importorskip("segmentation_models_pytorch")
    data_of = {"data": Path(name).stem, "paper": PAPER_DATA.get(config["data"]["class_path"])}.get(kind, "shapes")
    base = ["--config", CONFIGS / name] if alone else ["--config", BASE, "--config", CONFIGS / name]
    base += [*small(config, tmp_path / "fake", data_of), "--trainer.check_val_every_n_epoch", 1, "--experiment", "it"]
    outcome = darkroom("fit", *base)
    assert outcome.code == 0, outcome.err
    assert Path("runs/it/0/checkpoints/last.ckpt").is_file()
    outcome = darkroom("test", *base, "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err
    assert "test/mIoU" in outcome.out


@pytest.mark.parametrize("name", ALL)
def test_opens_with_its_promise(name: str) -> None:
    first, *rest = (CONFIGS / name).read_text().split("\n")
    assert re.match(r"# \w.{20,}", first)
    head = " ".join([first, *(line for line in rest[:8] if line.startswith("#"))])
    if name.startswith("segmentation/"):
        assert re.search(r"mIoU 0\.\d{3} in \d min", head) or "not measured here" in head
    if name.startswith("paper/"):
        assert "Not run here" in head
