"""Commands that do not import torch: help, version, list, runs."""

import gc
import importlib
import json
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.__main__ import only_prints, without_garbage_collection
from tests.conftest import CONFIGS


@pytest.mark.parametrize("command", ["--help", "--version", "list"])
def test_help_version_and_list_do_not_import_torch(command: str) -> None:
    code = f"""
import sys, time
from darkroom.__main__ import main
assert main([{command!r}]) == 0
assert not {{"torch", "lightning", "numpy", "yaml"}} & sys.modules.keys()
assert time.process_time() < 2  # importing torch alone takes longer; .07 s for --help, .4 s for list
"""
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, text=True, check=True
    )
    assert "darkroom" in output.stdout or "UNet" in output.stdout


def test_runs_does_not_import_torch(tmp_path: Path) -> None:
    code = """
import sys
from darkroom.__main__ import main
assert main(["runs", "."]) == 0
assert not {"torch", "lightning"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)


@pytest.mark.slow  # imports everything in a process of its own
@pytest.mark.parametrize("arguments", [["--help"], ["--config", "configs/segmentation/unet.yaml", "--print_config"]])
def test_fit_does_not_import_packages_before_they_are_needed(arguments: list[str]) -> None:
    late = [
        *("wandb", "tensorboard", "matplotlib", "segmentation_models_pytorch", "transformers", "diffusers", "pandas"),
        *("onnx", "onnxruntime", "onnxscript", "sklearn", "torchcodec", "cv2", "faster_coco_eval", "scipy.io"),
        *("scipy.stats", "scipy.signal", "huggingface_hub", "webdataset", "safetensors", "torch_fidelity"),
    ]
    code = f"""
import sys
import lightning.pytorch.cli, torchmetrics, torchvision  # needed by every command; they import matplotlib, scipy.signal
theirs = set(sys.modules)
from darkroom.__main__ import main
assert main(["fit", *{arguments}]) == 0
early = set({late}) & (sys.modules.keys() - theirs)
assert not early, early
"""
    subprocess.run([sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, check=True)


def test_list_shows_every_class_and_config(darkroom: Callable) -> None:
    from darkroom.cli.catalog import classes

    output = darkroom("list").out
    ladder = {
        "ImageClassifier",
        "ConvolutionalizedClassifier",
        "FCN",
        "DeconvNet",
        "DilatedNet",
        "UNet",
        "EncoderUNet",
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
        "NoisyClassifier",
        "TextToImage",
        "SuperResolution",
        "ImagenCascade",
    }
    assert ladder == set(classes("lightning_modules", "Technique"))
    for name in ("UNet", "ShapesSegmentation", "ImageMaskFolder", "VOCSegmentation", "SegmentationMaskLogger"):
        assert f"  {name} " in output
    assert all(len(line) <= 100 for line in output.splitlines())


def test_list_as_json_has_a_description_of_every_config(darkroom: Callable) -> None:
    found = json.loads(darkroom("list", "--json").out)
    experiments = {one["config"]: one for one in found["experiments"]}
    unet = experiments["configs/segmentation/unet.yaml"]
    assert re.fullmatch(r"test mIoU 0\.9\d\d", unet.pop("result"))
    assert unet == {"method": "UNet", "family": "segmentation", "config": "configs/segmentation/unet.yaml"}
    paths = {f"configs/{path.relative_to(CONFIGS).as_posix()}" for path in CONFIGS.rglob("*.yaml")}
    assert paths == experiments.keys() | found["configs"].keys()
    assert all(len(head) > 20 for head in found["configs"].values())
    heads = [(CONFIGS.parent / path).read_text().split("\n", 1)[0] for path in experiments]
    assert all(len(head) > 20 and head.startswith("# ") for head in heads)


@pytest.mark.parametrize(
    ("words", "prints"),
    [
        (["fit", "--help"], True),
        (["fit", "--config", "a.yaml", "-h"], True),
        (["fit", "--model.help", "UNet"], True),
        (["fit", "--model.help=UNet"], True),
        (["fit", "--print_config=skip_default"], True),
        (["fit", "--config", "a-helper.yaml", "--data.helper", "1"], False),
        (["chain", "a.yaml", "b.yaml"], False),
        (["fit", "--config=my.help.yaml"], False),
        (["fit", "--data.root=/home/a.help/x"], False),
    ],
)
def test_help_and_print_config_only_print(words: list[str], prints: bool) -> None:
    assert only_prints(words) == prints


@pytest.mark.slow  # imports everything in a process of its own
def test_help_of_a_process_is_complete_and_alone(darkroom: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    words = [sys.executable, "-m", "darkroom", "fit", "--help"]
    done = subprocess.run(words, cwd=CONFIGS.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    here, there = (re.findall(r"^  (--[\w.]+)", text, re.M) for text in (darkroom("fit", "--help").out, done.stdout))
    assert here == there  # the order of classes differs where tests define their own


@pytest.mark.slow
def test_imported_objects_of_a_process_are_frozen_until_its_end() -> None:
    code = """
import atexit, gc
from darkroom.__main__ import main
atexit.register(lambda: print("at the end", gc.get_freeze_count()))  # runs after the handlers that are registered later
assert main(["fit", "--config", "configs/segmentation/unet.yaml", "--print_config"]) == 0
assert gc.get_freeze_count() > 100_000
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "at the end 0"
    assert "leaked" not in done.stderr


@pytest.mark.slow
def test_error_of_a_process_that_only_prints_has_its_exit_code() -> None:
    words = ["fit", "--config", "missing.yaml", "--print_config"]
    done = subprocess.run([sys.executable, "-m", "darkroom", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "missing.yaml" in done.stderr


def test_objects_of_a_caller_with_torch_are_not_frozen() -> None:
    import torch

    class Garbage:
        pass

    one = Garbage()
    one.itself, ended = one, []  # type: ignore[attr-defined]
    weakref.finalize(one, ended.append, torch.__version__)
    with without_garbage_collection():
        importlib.reload(importlib.import_module("colorsys"))
    del one
    gc.collect()
    assert ended
    assert gc.isenabled()


def test_no_command_prints_help_and_unknown_command_raises(darkroom: Callable) -> None:
    assert "usage" in darkroom().out
    outcome = darkroom("trian")
    assert outcome.code == 2
    assert "unknown command 'trian'" in outcome.message


def test_list_contains_only_registered_classes() -> None:
    from darkroom.cli.catalog import classes, import_all
    from darkroom.datamodules.base import VisionDataModule
    from darkroom.lightning_modules.base import Technique

    def subclasses(kind: type) -> set[type]:
        return {kind} | {c for child in kind.__subclasses__() for c in subclasses(child)}

    import_all()
    for room, base in (("lightning_modules", Technique), ("datamodules", VisionDataModule)):
        listed = set(classes(room, base.__name__))
        assert listed <= {kind.__name__ for kind in subclasses(base) if kind.__module__.startswith(f"darkroom.{room}")}


@pytest.mark.parametrize("words", ["list", "fit --help"])
def test_printing_ends_cleanly_on_a_closed_pipe(words: str) -> None:
    command = f"{sys.executable} -m darkroom {words} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=CONFIGS.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
