"""The visit to a GPU machine: rows are kept whatever happens, and its checks pass on the CPU."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import run
from benchmarks.gpu.speed import IMPORTANT
from benchmarks.gpu.visit import Visit
from benchmarks.speed.harness import ENTRIES


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


def test_part_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    def measure() -> Iterator[dict[str, Any]]:
        time.sleep(30)
        yield {"ms": 1.0}

    visit = Visit(tmp_path / "gpu.jsonl", 0.2)
    start = time.monotonic()
    visit.run("speed", "slow", measure)
    visit.run("speed", "late", measure)
    assert time.monotonic() - start < 10
    assert [row["error"].split(": ")[-1] for row in rows_of(visit.path)] == ["the budget is spent"] * 2


def test_timed_steps_are_known() -> None:
    assert set(IMPORTANT) <= ENTRIES.keys()


@pytest.mark.slow
def test_tiny_visit_on_the_cpu_finds_no_fault(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    assert run.main(["--device", "cpu", "--tiny", "--budget", "300", "--out", str(out)]) == 0
    rows = rows_of(out)
    assert not [row for row in rows if "error" in row]
    assert {row["part"] for row in rows} == {"machine", "correctness", "demo", "utilization", "speed"}
    assert [row["right"] for row in rows if row["part"] == "correctness"] == [True] * 8
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "## Correctness" in text
    assert "| unet | bf16-mixed |" in text
