"""Table and chart of the choices of a diffusion model."""

from pathlib import Path

import pytest

from benchmarks.results import choices
from benchmarks.results.choices import CHOICES, CONFIG, Choice, draw, measure, table
from darkroom.cli.building.plan_build import build_config
from darkroom.lightning_modules.diffusion import DDPM
from darkroom.runtime.records.past_tests import append_test

SCORES = [(choice, {"cnn_fid": 10.0 + index, "label_accuracy": 0.9}) for index, choice in enumerate(CHOICES)]


def test_choices_share_one_fit_unless_training_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[tuple[str, ...]] = []

    def run(command: str, *arguments: str) -> None:
        commands.append((command, *arguments))
        run = tmp_path / arguments[arguments.index("--experiment") + 1] / "0"
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "checkpoints" / "last.ckpt").touch()
        append_test(run, None, {"test/cnn_fid": 12.5, "test/label_accuracy": 0.75})

    monkeypatch.setattr(choices, "run_darkroom", run)
    for _ in range(2):  # the second time reads the files
        found = [measure(choice, tmp_path, []) for choice in CHOICES]
    assert found[0] == {"cnn_fid": 12.5, "label_accuracy": 0.75}
    fits = [command for command in commands if command[0] == "fit"]
    tests = [command for command in commands if command[0] == "test"]
    assert (len(fits), len(tests)) == (10, 16)
    assert all("--model.sampling.guidance" not in command for command in fits)
    with pytest.raises(SystemExit, match="--runs_dir must be another folder"):
        measure(CHOICES[0], tmp_path, ["--trainer.max_epochs", "4"])


@pytest.mark.slow
@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice.arguments], ids=lambda choice: choice.name)
def test_options_of_every_choice_fit_together(choice: Choice) -> None:
    assert isinstance(build_config([*CONFIG[:2], *choice.arguments]).model, DDPM)


def test_stopped_fit_is_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkpoints = tmp_path / "choice-config" / "0" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").touch()

    def run(command: str, *arguments: str) -> None:
        assert command == "fit"
        assert arguments[-2:] == ("--ckpt_path", "last")
        raise KeyboardInterrupt

    monkeypatch.setattr(choices, "run_darkroom", run)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            measure(CHOICES[0], tmp_path, [])


def test_chart_has_a_bar_for_each_choice(tmp_path: Path) -> None:
    draw(SCORES).save(tmp_path / "choices")
    svg = (tmp_path / "choices.svg").read_text()
    assert all(choice.name in svg for choice in CHOICES)
    assert {choice.group for choice in CHOICES} <= set(svg.replace("<", ">").split(">"))


def test_table_has_a_row_for_each_choice() -> None:
    assert table(SCORES).splitlines()[2] == "| prediction | v (config) | 10.0 | 90.0% |"
    assert len(table(SCORES).splitlines()) == 2 + len(CHOICES)
