"""Help of commands and classes: short, with Darkroom's own classes as the choices of an option."""

import re
from collections.abc import Callable

import pytest

from darkroom.cli import catalog

IN_UNIT_LANE = ("UNet", "DDPM")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in IN_UNIT_LANE else pytest.mark.slow)
        for name in catalog.classes("lightning_modules", "Technique")
    ],
)
def test_help_of_every_model_is_short(darkroom: Callable, name: str) -> None:
    out = darkroom("fit", f"--model.help={name}").out
    assert out.startswith("usage: darkroom fit ")
    assert len(out.splitlines()) < 150
    assert "torch.nn" not in out.replace("torch.nn.Module", "")


@pytest.mark.slow
def test_help_of_every_datamodule_is_short(darkroom: Callable) -> None:
    for name in catalog.classes("datamodules", "VisionDataModule"):
        assert len(darkroom("fit", f"--data.help={name}").out.splitlines()) < 150, name


def test_help_names_own_classes_as_choices(darkroom: Callable) -> None:
    text = re.sub(r"\s+", " ", darkroom("fit", "--model.help", "UNet").out)
    assert "default: null, choices: CrossEntropy, Focal, BorderWeighted, Dice, Lovasz, Sum or an import path)" in text
    assert "--model.loss.help" in text  # all options of one choice
    assert "class_weights" in darkroom("fit", "--model", "UNet", "--model.loss.help", "CrossEntropy").out


def test_choices_of_model_and_data_are_all_methods_and_datasets(darkroom: Callable) -> None:
    text = re.sub(r"\s+", " ", darkroom("fit", "--help").out)
    shown = [{*choices.split(", ")} for choices in re.findall(r"choices: (\w+(?:, \w+)+)", text)]
    for base in (("lightning_modules", "Technique"), ("datamodules", "VisionDataModule")):
        assert any(choices >= catalog.classes(*base).keys() for choices in shown), base


def test_help_of_fit_starts_with_its_options(darkroom: Callable) -> None:
    lines = darkroom("fit", "--help").out.splitlines()
    assert lines[0] == "usage: darkroom fit [--config FILE ...] [--OPTION VALUE ...]"
    assert lines.index("options:") < 8
