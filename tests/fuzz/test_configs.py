"""Configs with typos and wrong values: one message without traceback, or a valid run."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import CONFIGS
from tests.fuzz.strategies import corrupted, examples
from tests.fuzz.trees import change
from tests.test_configs import ALL, FAMILIES

VALUES = (
    *(None, "", "x", "none", -1, 0, 1, 10**6, 10**30, -1e30, 1.5, float("nan"), float("inf"), True),
    *([], {}, [1], [None], {"a": 1}, {"class_path": "os.system"}, {"class_path": "UNett"}, {"init_args": {}}),
    *(
        "torch.optim.Adam",
        "WarmupCosine",
        {"class_path": "torch.nn.Linear"},
        "é",
        "2e-3",
        "../x",
    ),
)
EXPERIMENTS = [name for name in ALL if name.startswith(FAMILIES)]


def damaged(path: Path, random: Random) -> bytes:
    """Return a config with a typo or with wrong values."""
    if random.random() < 0.4:
        return corrupted(path.read_bytes(), True, random)
    config = yaml.safe_load(path.read_text())
    for _ in range(random.choice((1, 1, 2))):
        change(config, random, VALUES)
    return yaml.safe_dump(config, allow_unicode=True).encode()


def attempt(darkroom: Callable, *arguments: object) -> None:
    outcome = darkroom("fit", *arguments)
    assert outcome.code in (0, 1, 2)
    if outcome.code:
        assert 1 <= len(outcome.message.splitlines()) <= 5, outcome.message


@examples(12)
@given(seed=st.integers(0, 2**32))
def test_damaged_config_raises_or_parses(darkroom: Callable, seed: int) -> None:
    random = Random(seed)
    Path("damaged.yaml").write_bytes(damaged(CONFIGS / random.choice(EXPERIMENTS), random))
    attempt(darkroom, "--config", "damaged.yaml", "--print_config")


@examples(6)
@given(seed=st.integers(0, 2**32))
def test_damaged_config_raises_or_trains(darkroom: Callable, tiny: list[str], seed: int) -> None:
    random = Random(seed)
    Path("damaged.yaml").write_bytes(damaged(CONFIGS / "segmentation/unet.yaml", random))
    end = ["--data.train_size", 4, "--trainer.max_steps", 1]
    attempt(darkroom, "--config", "damaged.yaml", *tiny[2:], *end)


def test_scalar_or_list_instead_of_group_raises(darkroom: Callable, tiny: list[str]) -> None:
    """Check settings that are not mappings, followed by valid options."""
    for text in ("trainer: 3", "trainer: [callbacks]", "checkpoint: 1.5", "last_checkpoint: [1]"):
        Path("group.yaml").write_text(text + "\n")
        outcome = darkroom("fit", "--config", "group.yaml", *tiny)
        assert outcome.code == 2
        assert f"group.yaml: {text.split(':')[0]} is" in outcome.message
