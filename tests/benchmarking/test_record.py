"""Recorded measurements and their page."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmarks.entries  # noqa: F401 (registers the entries, whose order the page has)
from benchmarks import record as record_module
from benchmarks.record import PAGE, RECORDED, is_behind, keep, read_reasons, render, rows_of_peers
from benchmarks.speed.harness import ENTRIES, Options, Result, Row, Side, compare


def slow_peer(options: Options) -> Result:
    """Return a measurement in which a peer is ahead."""
    ours = Row("ours", 2.0, 500.0, 1.0, 3.0, 0.5, flops=6e9)
    rows = [ours, Row("theirs", 1.0, 1000.0, 0.5, spread=(0.4, 0.6), peer=True, flops=3e9)]
    return Result("A step", rows, ["A note."])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Measurement of an entry, as ``--record`` keeps it."""
    monkeypatch.setitem(ENTRIES, "unet_step", slow_peer)
    return record_module.measure("unet_step", Options(rounds=3))


def test_command_of_a_measurement_has_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = Options(dtype="bfloat16", channels_last=True, rounds=3)
    written = "OMP_NUM_THREADS=1 python -m benchmarks unet_step --dtype bfloat16 --channels-last --rounds 3"
    assert record_module.command_of("unet_step", options) == written
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert record_module.command_of("unet_step", Options()) == "python -m benchmarks unet_step"


def test_newer_measurement_replaces_the_older_one_of_its_precision(measured: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "recorded.json"
    keep("unet_step", measured | {"title": "Old"}, Options(), file)
    keep("unet_step", measured, Options(), file)
    keep("unet_step", measured, Options(dtype="bfloat16"), file)
    keep("unet_step", measured, Options(channels_last=True), file)
    known, count = json.loads(file.read_text()), torch.get_num_threads()
    threads = f"{count} thread{'s' * (count > 1)}"
    assert {section: record["unet_step"]["title"] for section, record in known.items()} == {
        f"cpu, float32, {threads}": "A step",
        f"cpu, bfloat16, {threads}": "A step",
        f"cpu, float32, {threads}, channels last": "A step",
    }
    assert (tmp_path / PAGE.name).read_text() == render(known)


def test_page_names_peers_that_are_ahead_with_the_reason(
    measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "read_reasons", lambda: {"unet_step": "It does less."})
    page = render({"cpu, float32": {"unet_step": measured | {"processors_of_others": 0.9, "processors": 2}}})
    assert "| A step | cpu, float32 | theirs | **0.50 (0.40 to 0.60)** | 3.0 / 6.0 | It does less. |" in page
    assert "| ours | 2 | 500 | 3 | 50% | 1.00 |" in page
    assert "A note." in page
    assert "Other processes used 0.90 of 2 processors meanwhile; compare ratios, not milliseconds." in page


def test_peer_within_the_spread_is_not_ahead() -> None:
    assert is_behind({"ratio": 0.9, "spread": (0.8, 0.95)})
    assert is_behind({"ratio": 0.9, "spread": None})
    assert not is_behind({"ratio": 0.96, "spread": (0.9, 1.05)})
    assert not is_behind({"ratio": 0.998, "spread": (0.99, 0.999)})


def test_ratios_have_quartiles_within_rounds() -> None:
    result = compare(
        "Steps", [Side("ours", lambda: None, 1), Side("theirs", lambda: None, 1)], Options(), peers=["theirs"]
    )
    ours, theirs = result.rows
    assert (ours.spread, ours.peer, theirs.peer) == (None, False, True)
    assert theirs.spread is not None
    assert theirs.spread[0] <= theirs.spread[1]


def test_page_is_that_of_the_records_and_every_slower_row_has_a_reason() -> None:
    known = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == render(known)
    behind = {name for _, name, _, row in rows_of_peers(known) if is_behind(row)}
    assert behind <= read_reasons().keys() <= ENTRIES.keys()


def test_commands_around_a_training_have_entries() -> None:
    assert {"start_up", "checkpoints", "loader_wait", "report_and_export"} <= ENTRIES.keys()
