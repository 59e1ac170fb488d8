"""The door without torch: help, version, list."""

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.conftest import CONFIGS


@pytest.mark.parametrize("command", ["--help", "--version", "list"])
def test_answers_at_once_without_torch(command: str) -> None:
    code = f"""
import sys
from darkroom.__main__ import main
assert main([{command!r}]) == 0
assert not {{"torch", "lightning", "numpy", "yaml"}} & sys.modules.keys()
"""
    start = time.perf_counter()
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - start < 2  # 0.07 s measured; the margin is for a busy machine
    assert "darkroom" in answer.stdout or "UNet" in answer.stdout


def test_list_names_what_there_is(darkroom: Callable) -> None:
    from darkroom.catalog import classes

    answer = darkroom("list").out
    assert {"UNet", "SemanticSegmentation"} == set(classes("lightning_modules", "Technique"))
    for name in ("UNet", "ShapesSegmentation", "ImageMaskFolder", "VOCSegmentation", "SegmentationMaskLogger"):
        assert f"  {name} " in answer
    for config in CONFIGS.rglob("*.yaml"):
        line = next(line for line in answer.splitlines() if f"configs/{config.relative_to(CONFIGS)} " in line)
        assert len(line.split(maxsplit=1)[1]) > 20  # every config says what it promises


def test_no_command_is_help_and_a_wrong_one_an_error(darkroom: Callable) -> None:
    assert "usage" in darkroom().out
    outcome = darkroom("trian")
    assert outcome.code == 2
    assert "'trian' is no command" in outcome.message


def test_list_is_what_the_command_line_knows() -> None:
    from darkroom.catalog import classes, import_all
    from datamodules.base import VisionDataModule
    from lightning_modules.base import Technique

    def below(kind: type) -> set[type]:
        return {kind} | {c for child in kind.__subclasses__() for c in below(child)}

    import_all()
    for room, base in (("lightning_modules", Technique), ("datamodules", VisionDataModule)):
        listed = set(classes(room, base.__name__))
        assert listed <= {kind.__name__ for kind in below(base) if kind.__module__.startswith(room)}
