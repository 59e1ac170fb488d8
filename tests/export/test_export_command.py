"""``darkroom export``: messages for mistakes."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


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
    outcome = darkroom("predict", "--ckpt_path", name, "--data.predict_dir", ".")
    assert outcome.code in (1, 2)
    assert name in outcome.message or "photo.json" in outcome.message
