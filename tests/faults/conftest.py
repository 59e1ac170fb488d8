"""Results of an uninterrupted fit, which every interrupted fit must reproduce."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.fakes.commands import NOISY, TINY, Command, on_two_ranks

TIMES = ("seconds", "per_second")  # differ between any two runs


class End(NamedTuple):
    """Last checkpoint without times and folders, and every row of metrics.csv."""

    checkpoint: dict[str, Any]
    rows: list[dict[str, str]]


def end_of(run: str) -> End:
    last = torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)
    kept = {key: last[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")}
    rows = []
    for row in csv.DictReader(Path(run, "metrics.csv").open()):
        row = {key: value for key, value in row.items() if value and not key.endswith(TIMES)}
        rows += [row] if row.keys() - {"step", "epoch"} else []
    return End(kept | {"random": last["callbacks"]["ExactResume"]}, rows)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def assert_same(uninterrupted: End, run: str = "runs/it/0") -> None:
    """Assert bit-identical weights, optimizer, schedule, random state and position, and equal rows of metrics.csv."""
    again = end_of(run)
    for key, value in uninterrupted.checkpoint.items():
        assert equal(value, again.checkpoint[key]), key
    assert again.rows == uninterrupted.rows
    assert not list(Path(run, "checkpoints").glob("*.part"))


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    torch.set_num_threads(1)
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> End:
    """Result of ``TINY``."""
    with _in_folder(tmp_path_factory.mktemp("uninterrupted")):
        assert Command(*TINY).wait() == 0
        return end_of("runs/it/0")


@pytest.fixture(scope="session")
def uninterrupted_on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> End:
    """Result of ``NOISY``."""
    with _in_folder(tmp_path_factory.mktemp("ranks")):
        assert [command.wait() for command in on_two_ranks(*NOISY)] == [0, 0]
        return end_of("runs/it/0")
