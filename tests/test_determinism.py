"""Runs of every method are bit-identical for equal seeds and differ for different seeds."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import CONFIGS
from tests.test_configs import ALL, config_of, family_of, in_lanes, on_shapes, one_per_method, small

OURS = [name for name in ALL if on_shapes(name) and "torchvision" not in name and "smp" not in name]
UNIT = ("segmentation/unet.yaml",)
TWO_SEEDS = (*UNIT, "autoencoding/vae.yaml")
SCORED = ("adversarial/dcgan.yaml",)  # the best checkpoint depends on these metrics


def fit(darkroom: Callable, name: str, experiment: str, *arguments: object) -> Path:
    """Run a small fit and return its folder."""
    config = config_of(name)
    given = ["--config", CONFIGS / name, *small(config, Path("fake"), family_of(name), "shapes")]
    given += ["--trainer.check_val_every_n_epoch", 1, "--trainer.log_every_n_steps", 1, "--trainer.callbacks", "null"]
    given += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    given += ["--trainer.num_sanity_val_steps", 0, "--trainer.limit_val_batches", 1]
    if "scores" in config["model"]["init_args"] and name not in SCORED:  # they would first train a judge
        given += ["--model.scores", "null"]
    outcome = darkroom("fit", *given, "--experiment", experiment, *arguments)
    assert outcome.code == 0, outcome.err
    return Path("runs", experiment, "0")


def metrics(run: Path) -> list[dict[str, str]]:
    """Read all logged metrics without timings."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if "_per_second" not in key} for row in rows]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def saved_seed(run: Path) -> int:
    return yaml.safe_load((run / "config.yaml").read_text())["seed_everything"]


@pytest.mark.parametrize("name", in_lanes(one_per_method(OURS), UNIT))
def test_runs_of_equal_seed_are_bit_identical(darkroom: Callable, name: str) -> None:
    """Check also with deterministic algorithms, which on the CPU are the default, and some methods with another seed."""
    first, second = fit(darkroom, name, "first"), fit(darkroom, name, "second", "--trainer.deterministic", "true")
    assert metrics(first) == metrics(second)
    assert any(metrics(first))
    before, after = weights(first), weights(second)
    assert before.keys() == after.keys()
    assert not [key for key, value in before.items() if not torch.equal(value, after[key])]
    assert saved_seed(first) == 0
    if name in TWO_SEEDS:
        other = fit(darkroom, name, "other", "--seed_everything", 1)
        assert metrics(first) != metrics(other)
        assert any(not torch.equal(value, before[key]) for key, value in weights(other).items())
        assert saved_seed(other) == 1
