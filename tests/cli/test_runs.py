"""``darkroom runs``, and the record that a fit writes for it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.cli.commands.runs import format_size
from darkroom.runtime.run_record import read_record


def test_runs_lists_fit_with_method_metric_and_state(darkroom: Callable, tiny_run: Path) -> None:
    listed = darkroom("runs", tiny_run.parents[1])
    assert listed.code == 0
    head, *lines = listed.out.splitlines()
    assert head.split() == ["run", "method", "data", "metric", "epochs", "state", "size"]
    line = next(line for line in lines if str(tiny_run) in line)
    assert "finished" in line
    [row] = [
        row for row in json.loads(darkroom("runs", tiny_run.parents[1], "--json").out) if row["run"] == str(tiny_run)
    ]
    assert row["state"] == "finished"
    assert row["epochs"] == row["max_epochs"]
    assert row["notes"] == []
    assert row["size"] > 1000


def test_fit_records_machine_versions_time_and_memory(tiny_run: Path) -> None:
    record = read_record(tiny_run)
    assert record is not None
    assert record.state == "finished"
    assert record.command.startswith("darkroom")
    assert record.seconds > 0
    assert record.parameters
    assert record.seed == 0
    assert record.peak_memory_mib is None or record.peak_memory_mib > 10
    assert record.versions is not None
    assert {"python", "torch", "darkroom"} <= record.versions.keys()


def test_newest_run_is_first(darkroom: Callable, tmp_path: Path) -> None:
    for number in range(3):
        folder = tmp_path / f"runs/unet/{number}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("model: {class_path: UNet}")
        (folder / "metrics.csv").write_text("step,epoch,val/mIoU\n")
        os.utime(folder / "metrics.csv", (1000 + number % 2, 1000 + number % 2))
    order = [row["run"][-1] for row in json.loads(darkroom("runs", "--json").out)]
    assert order == ["1", "0", "2"]


def test_folder_without_runs_says_so(darkroom: Callable, tmp_path: Path) -> None:
    assert "does not exist" in darkroom("runs").message
    (tmp_path / "runs").mkdir()
    assert darkroom("runs").out == "runs has no runs\n"


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (1000, "0.977 KiB"), (5 * 2**20, "5 MiB"), (3 * 2**40, "3 TiB")]
)
def test_sizes_have_three_digits(size: int, text: str) -> None:
    assert format_size(size) == text
