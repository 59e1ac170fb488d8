"""``darkroom export``: options, messages for mistakes, and prediction from its files."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from darkroom.cli.commands.export import take_model_options
from darkroom.errors import UsageError
from darkroom.export.checkpoint import merge_options
from darkroom.lightning_modules.segmentation import UNet
from tests.conftest import CONFIGS


@pytest.fixture
def checkpoint() -> Path:
    path = Path("some.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {}}, path)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "ckpt_path"),
        (("--ckpt_path", "gone.ckpt"), "ckpt_path gone.ckpt does not exist"),
        (("--ckpt_path", "some.ckpt", "--format", "tensorrt"), "format"),
        (("--ckpt_path", "some.ckpt"), "must be a checkpoint of `darkroom fit`"),
        (("--ckpt_path", "some.ckpt", "--half", "--int8"), "must not be set together"),
        (("--ckpt_path", "some.ckpt", "--int8", "--format", "torch_export"), "must be used with --format onnx"),
        (("--ckpt_path", "text.ckpt"), "cannot be loaded"),
    ],
)
def test_mistakes_end_in_one_message(
    darkroom: Callable, checkpoint: Path, arguments: tuple[str, ...], message: str
) -> None:
    Path("text.ckpt").write_text("not a checkpoint")
    outcome = darkroom("export", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert [path.suffix for path in Path().rglob("*") if path.is_file()] == [".ckpt", ".ckpt"]


def test_missing_package_names_the_extra(darkroom: Callable, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    outcome = darkroom("export", "--ckpt_path", checkpoint)
    assert outcome.code == 2
    assert "format onnx needs the package onnxscript" in outcome.message
    assert "[export]" in outcome.message


@pytest.mark.parametrize("name", ["photo.onnx", "photo.pt2", "gone.onnx"])
def test_predict_from_another_file_ends_in_one_message(darkroom: Callable, name: str) -> None:
    Path("photo.onnx").write_bytes(b"\x89PNG")
    Path("photo.pt2").write_bytes(b"\x89PNG")
    outcome = darkroom("predict", "--ckpt_path", name, "--data.predict", ".")
    assert outcome.code in (1, 2)
    assert name in outcome.message or "photo.json" in outcome.message


def test_options_that_the_training_fixes_are_refused() -> None:
    for options, message in (
        ({"base_channels": 8}, "must be as in the training"),
        ({"optim": {}}, "inference, metrics"),
    ):
        with pytest.raises(UsageError, match=message):
            merge_options(UNet, {"base_channels": 4}, options)


def test_option_of_a_group_leaves_the_others_as_saved() -> None:
    words, options = take_model_options(["--model.inference.tile", "512", "--half", "--model.inference.flip=true"])
    assert words == ["--half"]
    merged = merge_options(UNet, {"inference": {"tile": None, "overlap": 0.5}}, options)
    assert merged == {"inference": {"tile": 512, "overlap": 0.5, "flip": True}}


@pytest.mark.slow
def test_predict_from_an_exported_file_writes_the_same_files(darkroom: Callable) -> None:
    small = ["--model.base_channels", 2, "--trainer.max_steps", 1, "--data.num_workers", 0, "--data.batch_size", 2]
    small += [word for split in ("train", "val", "test") for word in (f"--data.{split}_size", 4)]
    fitted = darkroom("fit", "--config", CONFIGS / "segmentation/unet.yaml", *small, "--experiment", "unet")
    assert fitted.code == 0, fitted.err
    checkpoint = Path("runs/unet/0/checkpoints/last.ckpt")
    exported = darkroom("export", "--ckpt_path", checkpoint)
    assert exported.code == 0, exported.err
    assert "100.00% of" in exported.out
    assert sorted(path.name for path in Path("runs/unet/0/export").iterdir()) == ["model.json", "model.onnx"]
    for path, experiment in ((checkpoint, "-"), (Path("runs/unet/0/export/model.onnx"), "exported")):
        where = [] if experiment == "-" else ["--experiment", experiment]
        predicted = darkroom("predict", "--ckpt_path", path, *where)
        assert predicted.code == 0, predicted.err
    ours, theirs = Path("runs/unet/0/predictions"), Path("runs/exported/0/predictions")
    files = [path.relative_to(ours) for path in ours.rglob("*") if path.is_file()]
    assert len(files) == 9  # four masks, four overlays, a table
    assert all((ours / file).read_bytes() == (theirs / file).read_bytes() for file in files)
    reduced = darkroom("export", "--ckpt_path", checkpoint, "--int8", "--output", "small")
    assert reduced.code == 0, reduced.err
    assert "val/mIoU: float32" in reduced.out
    assert Path("small/model.onnx").is_file()
