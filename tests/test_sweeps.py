"""Sweeps: W&B's own code makes command lines of them; these parse, fit, and log what is searched for."""

import csv
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import CONFIGS
from tests.runtime.test_wandb import read
from tests.test_configs import config_of, family_of, small

SWEEPS = sorted((CONFIGS / "sweep").glob("*.yaml"), key=lambda path: path.stem)
of_every_sweep = pytest.mark.parametrize(
    "sweep",
    [pytest.param(path, id=path.stem, marks=[] if path.stem == "unet" else pytest.mark.slow) for path in SWEEPS],
)


def of(sweep: Path) -> dict[str, Any]:
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    return load_sweep_config(str(sweep))


def trials(sweep: Path) -> list[dict[str, Any]]:
    """As many as it takes to try every value once; of a range its two ends."""
    choices = {
        name: space.get("values") or ([space["value"]] if "value" in space else [space["min"], space["max"]])
        for name, space in of(sweep)["parameters"].items()
    }
    count = max(map(len, choices.values()))
    return [{name: values[i % len(values)] for name, values in choices.items()} for i in range(count)]


def command(sweep: Path, trial: dict[str, Any]) -> list[str]:
    """What an agent of W&B would start."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    known = create_sweep_command_args({"args": {name: {"value": value} for name, value in trial.items()}})
    known |= {"env": ["/usr/bin/env"], "program": [of(sweep)["program"]]}
    words: list[str] = []
    for word in create_sweep_command(of(sweep)["command"]):
        words += known[word[2:-1]] if word.startswith("${") else [word]
    return words


def experiment_of(sweep: Path) -> str:
    """The experiment that it varies."""
    words = command(sweep, {})
    return words[words.index("--config") + 1].removeprefix("configs/")


@of_every_sweep
def test_every_value_is_taken(darkroom: Callable, sweep: Path) -> None:
    for trial in trials(sweep):
        env, program, *argv = command(sweep, trial)
        assert (env, program) == ("/usr/bin/env", "darkroom")
        outcome = darkroom(*argv, "--print_config")
        assert outcome.code == 0, outcome.err
        config = yaml.safe_load(outcome.out)
        assert config["experiment"] == f"sweep-{sweep.stem}"
        for name, value in trial.items():
            room, *path = name.split(".")
            path = path if room == "trainer" else ["init_args", *path]
            wanted = yaml.safe_load(value) if isinstance(value, str) else value
            assert reduce(lambda part, key: part[key], path, config[room]) == wanted, name
    assert len({str(trial) for trial in trials(sweep)}) > 1


@pytest.mark.slow
@of_every_sweep
def test_what_is_searched_for_is_logged(
    darkroom: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: Path
) -> None:
    """A local agent's loop; of one sweep two runs, which lie beside each other."""
    name, metric = experiment_of(sweep), of(sweep)["metric"]["name"]
    tiny = small(config_of(name), tmp_path / "fake", family_of(name), "shapes")
    tiny += ["--trainer.limit_val_batches", 1, "--trainer.enable_progress_bar", "false"]
    for number, trial in enumerate(trials(sweep)[: 2 if sweep.stem == "unet" else 1]):
        monkeypatch.setenv("WANDB_RUN_ID", f"trial{number}")  # as an agent says it
        outcome = darkroom(*command(sweep, trial)[2:], *tiny, "--trainer.check_val_every_n_epoch", 1)
        assert outcome.code == 0, outcome.err
        run = Path("runs", f"sweep-{sweep.stem}", str(number))
        assert any(row[metric] for row in csv.DictReader((run / "metrics.csv").open()))
        (file,) = run.glob("wandb/offline-run-*/*.wandb")
        _, history, summary, ids = read(file)
        assert metric in history
        assert metric in summary
        assert ids == {f"trial{number}"}
