"""The visit to a GPU machine: rows are kept whatever happens, and its checks pass on the CPU."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import run
from benchmarks.gpu.correctness import check_method
from benchmarks.gpu.speed import IMPORTANT, measure_entry
from benchmarks.gpu.visit import Visit
from benchmarks.profile_steps import METHODS
from benchmarks.speed.harness import ENTRIES, Options, Result, Row


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_before_an_error_are_kept(tmp_path: Path) -> None:
    def measure() -> Iterator[dict[str, Any]]:
        yield {"ms": 3.0}
        raise RuntimeError("out of memory\non the device")

    visit = Visit(tmp_path / "gpu.jsonl", 60)
    visit.run("speed", "fcn", measure)
    visit.run("speed", "unet", lambda: iter([{"ms": 4.0}]))
    assert rows_of(visit.path) == [
        {"part": "speed", "name": "fcn", "ms": 3.0},
        {"part": "speed", "name": "fcn", "error": "RuntimeError: out of memory on the device"},
        {"part": "speed", "name": "unet", "ms": 4.0},
    ]


def sleep() -> Iterator[dict[str, Any]]:
    time.sleep(30)
    yield {"ms": 1.0}


def test_part_that_takes_too_long_is_stopped_and_the_next_one_runs(tmp_path: Path) -> None:
    visit = Visit(tmp_path / "gpu.jsonl", 60)
    start = time.monotonic()
    visit.run("speed", "slow", sleep, limit=0.2)
    visit.run("speed", "next", lambda: iter([{"ms": 1.0}]))
    assert time.monotonic() - start < 10
    slow, following = rows_of(visit.path)
    assert slow["error"] == "OverBudgetError: stopped after 0.2 s"
    assert following["ms"] == 1.0


def test_reserve_of_later_parts_is_not_spent(tmp_path: Path) -> None:
    visit = Visit(tmp_path / "gpu.jsonl", 60)
    visit.run("speed", "late", sleep, reserve=61)
    visit.run("demo", "last", lambda: iter([{"images_per_second": 1.0}]))
    late, last = rows_of(visit.path)
    assert late["error"] == "the budget is spent"
    assert last["images_per_second"] == 1.0


def test_timed_steps_are_known() -> None:
    assert set(IMPORTANT) <= ENTRIES.keys()


def test_timed_steps_are_recorded_with_their_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = Result("A step", [Row("ours", 2.0, 500.0, 1.0), Row("theirs", 3.0, 333.3, 1.5)], ["Equal work."])
    monkeypatch.setitem(ENTRIES, "unet_step", lambda options: result)
    rows = list(measure_entry("unet_step", Options(dtype="bfloat16", compile=True), tmp_path / "recorded.json"))
    assert [row.get("side") for row in rows] == ["ours", "theirs", None]
    assert rows[1]["compiled"]
    assert rows[2]["note"] == "Equal work."
    (section,) = (known := json.loads((tmp_path / "recorded.json").read_text(encoding="utf-8")))
    assert section.startswith("cpu, bfloat16")
    assert section.endswith("compiled")
    record = known[section]["unet_step"]
    assert [row["name"] for row in record["rows"]] == ["ours", "theirs"]
    assert record["command"].endswith("python -m benchmarks unet_step --dtype bfloat16 --compile")
    assert "| theirs | 3 |" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")


def test_training_of_a_gan_is_finite_by_the_loss_of_its_discriminator() -> None:
    (row,) = check_method("dcgan", "cpu", ("bf16-mixed",))
    assert row == {"precision": "bf16-mixed", "loss": None, "difference": None, "right": True}


@pytest.mark.slow
def test_tiny_visit_on_the_cpu_finds_no_fault(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    assert run.main(["--device", "cpu", "--tiny", "--budget", "1000", "--out", str(out)]) == 0
    rows = rows_of(out)
    assert not [row for row in rows if "error" in row]
    assert {row["part"] for row in rows} == {"machine", "correctness", "demo", "utilization", "speed"}
    assert [row["right"] for row in rows if row["part"] == "correctness"] == [True] * (len(METHODS) + 2)
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "## Correctness" in text
    assert "| unet | bf16-mixed |" in text
