"""configs/trainer/gpu.yaml: every embedded config is parsed and built with it, and trains as far as a CPU can."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from tests.conftest import CONFIGS
from tests.test_configs import BASES, COMPOSED, EXPERIMENTS, STAGED, config_of, family_of, on_shapes, small

OVERLAY = CONFIGS / "trainer/gpu.yaml"
EMBEDDED = [name for name in EXPERIMENTS if on_shapes(name) and "smp_" not in name]  # needs another package
FIRST = [path.relative_to(CONFIGS).as_posix() for path in BASES.values()]


def in_lanes(names: list[str]) -> list:
    return [pytest.param(name, marks=[] if name == FIRST[0] else pytest.mark.slow) for name in names]


def small_without_scores(config: dict[str, Any], fake: Path, family: str) -> list[object]:
    """Return arguments for a small model and small data, without metrics that need trained classifiers."""
    options = small(config, fake, family, "shapes")
    if "--model.scores.num_samples" not in options:
        return options
    place = options.index("--model.scores.num_samples")
    monitor = ["--checkpoint.monitor", "val/loss" if family != "adversarial" else "step", "--checkpoint.mode", "min"]
    return [*options[:place], "--model.scores", "null", *options[place + 2 :], *monitor]


@pytest.mark.parametrize("name", in_lanes(EMBEDDED))
def test_overlay_reaches_every_embedded_config(darkroom: Callable, name: str) -> None:
    outcome = darkroom("fit", "--config", CONFIGS / name, "--config", OVERLAY, "--print_config")
    assert outcome.code == 0, outcome.err
    config = yaml.safe_load(outcome.out)
    optim = config["model"]["init_args"]["optim"]
    optim = optim.get("init_args", optim)
    assert (optim["channels_last"], optim["compile"], optim["compile_mode"]) == (True, True, "default")
    assert config["trainer"]["precision"] == "bf16-mixed"
    last = config["trainer"]["callbacks"][-1]
    assert (last["class_path"].rpartition(".")[2], last["init_args"]) == ("MatmulPrecision", {"precision": "high"})
    for key in ("optimizer", "generator_optimizer", "discriminator_optimizer"):
        assert optim.get(key) is None or optim[key]["init_args"]["fused"]


@pytest.mark.parametrize("name", in_lanes([name for name in EMBEDDED if name not in COMPOSED]))
def test_embedded_config_is_built_with_overlay(
    darkroom: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    modes: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, mode: modes.append(mode))  # noted, not done
    config = config_of(name)
    options = small_without_scores(config, tmp_path / "fake", family_of(name))
    epochs = 3 if config["model"]["class_path"] in STAGED else 1
    options += ["--trainer.max_steps", 0, "--trainer.max_epochs", epochs, "--trainer.limit_val_batches", 0]
    outcome = darkroom("fit", "--config", CONFIGS / name, "--config", OVERLAY, *options)
    assert outcome.code == 0, outcome.err
    assert set(modes) == {"default"}


@pytest.mark.parametrize("name", in_lanes(FIRST))
def test_step_with_overlay_trains_on_a_cpu(darkroom: Callable, tmp_path: Path, name: str) -> None:
    config = config_of(name)
    options = small_without_scores(config, tmp_path / "fake", family_of(name))
    options += ["--model.optim.compile", "false", "--trainer.num_sanity_val_steps", 0, "--trainer.limit_val_batches", 0]
    outcome = darkroom("fit", "--config", CONFIGS / name, "--config", OVERLAY, *options)
    assert outcome.code == 0, outcome.err
