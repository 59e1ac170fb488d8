"""The door without torch: help, version, list."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.conftest import CONFIGS


@pytest.mark.parametrize("command", ["--help", "--version", "list"])
def test_answers_at_once_without_torch(command: str) -> None:
    code = f"""
import sys, time
from darkroom.__main__ import main
assert main([{command!r}]) == 0
assert not {{"torch", "lightning", "numpy", "yaml"}} & sys.modules.keys()
assert time.process_time() < 2  # importing torch alone takes longer; .07 s for --help, .4 s for list
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, text=True, check=True
    )
    assert "darkroom" in answer.stdout or "UNet" in answer.stdout


@pytest.mark.slow  # imports everything in a process of its own
def test_fit_help_imports_little_more_than_lightning() -> None:
    code = """
import sys
import torchmetrics  # lightning's own need; it imports matplotlib where that is installed
theirs = set(sys.modules)
from darkroom.__main__ import main
assert main(["fit", "--help"]) == 0
assert not {"wandb", "tensorboard", "matplotlib", "segmentation_models_pytorch"} & (sys.modules.keys() - theirs)
"""
    subprocess.run([sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, check=True)


def test_list_names_what_there_is(darkroom: Callable) -> None:
    from darkroom.cli.catalog import classes

    answer = darkroom("list").out
    ladder = {
        "ConvolutionalizedClassifier",
        "FCN",
        "DeconvNet",
        "DilatedNet",
        "UNet",
        "Ensemble",
        "SemanticSegmentation",
        "SlidingWindow",
        "RCNN",
        "FastRCNN",
        "FasterRCNN",
        "MaskRCNN",
        "SSD",
        "YOLO",
        "ObjectDetection",
        "AutoEncoder",
        "VAE",
        "ConditionalVAE",
        "DCGAN",
        "DDPM",
        "TextToImage",
        "SuperResolution",
        "ImagenCascade",
    }
    assert ladder == set(classes("lightning_modules", "Technique"))
    for name in ("UNet", "ShapesSegmentation", "ImageMaskFolder", "VOCSegmentation", "SegmentationMaskLogger"):
        assert f"  {name} " in answer
    for config in CONFIGS.rglob("*.yaml"):
        line = next(line for line in answer.splitlines() if f"configs/{config.relative_to(CONFIGS)} " in line)
        assert len(line.split(maxsplit=1)[1]) > 20  # every config says what it promises


def test_no_command_is_help_and_a_wrong_one_an_error(darkroom: Callable) -> None:
    assert "usage" in darkroom().out
    outcome = darkroom("trian")
    assert outcome.code == 2
    assert "unknown command 'trian'" in outcome.message


def test_list_is_what_the_command_line_knows() -> None:
    from darkroom.cli.catalog import classes, import_all
    from darkroom.datamodules.base import VisionDataModule
    from darkroom.lightning_modules.base import Technique

    def below(kind: type) -> set[type]:
        return {kind} | {c for child in kind.__subclasses__() for c in below(child)}

    import_all()
    for room, base in (("lightning_modules", Technique), ("datamodules", VisionDataModule)):
        listed = set(classes(room, base.__name__))
        assert listed <= {kind.__name__ for kind in below(base) if kind.__module__.startswith(f"darkroom.{room}")}


def test_list_ends_quietly_where_its_reader_has_gone() -> None:
    command = f"{sys.executable} -m darkroom list | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=CONFIGS.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
