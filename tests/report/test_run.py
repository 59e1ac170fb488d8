"""Runs read back from their folders: state, epochs, metrics, and damaged files."""

import dataclasses
import json
import os
import platform
import time
from pathlib import Path

import pytest

from darkroom.errors import UsageError
from darkroom.report.run import find_runs, read_run
from darkroom.runtime.records.run_record import RunRecord, read_record

CONFIG = """\
model: {class_path: darkroom.lightning_modules.segmentation.unet.UNet}
data: {class_path: ShapesSegmentation}
trainer: {max_epochs: 2}
checkpoint: {monitor: val/mIoU, mode: max}
"""
METRICS = """\
step,epoch,train/loss,val/mIoU,test/mIoU
3,0,1.5,,
4,0,,0.25,
8,1,,0.5,
8,1,,,0.4
"""
RECORD = RunRecord(
    command="darkroom fit", state="finished", started="2026-01-01T00:00:00+00:00", host=platform.node(), pid=2**22 + 1
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of two epochs, as ``darkroom fit`` and ``test`` leave it."""
    folder = tmp_path / "runs/unet/0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").write_bytes(b"weights")
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "metrics.csv").write_text(METRICS)
    RECORD.write(folder)
    return folder


def test_run_has_method_data_and_best_value(run: Path) -> None:
    read = read_run(run)
    assert (read.name, read.method, read.data, read.epochs, read.max_epochs) == (
        "unet/0",
        "UNet",
        "ShapesSegmentation",
        2,
        2,
    )
    assert read.best is not None
    assert (read.best.value, read.best.step, read.best.epoch) == (0.5, 8, 1)
    assert read.test_metrics == {"test/mIoU": 0.4}
    assert read.state == "finished"
    assert read.notes == []


def test_smallest_value_is_best_where_metric_is_minimized(run: Path) -> None:
    (run / "config.yaml").write_text(CONFIG.replace("mode: max", "mode: min"))
    assert read_run(run).best is not None
    assert read_run(run).best.value == 0.25


@pytest.mark.parametrize(
    ("state", "alive", "checkpoint", "expected"),
    [
        ("running", True, True, "running"),
        ("running", False, True, "resumable"),  # killed
        ("running", False, False, "stopped"),
        ("stopped", False, True, "resumable"),
        ("failed", False, False, "stopped"),
        ("finished", False, True, "finished"),
    ],
)
def test_state_follows_record_process_and_checkpoint(
    run: Path, state: str, alive: bool, checkpoint: bool, expected: str
) -> None:
    pid = os.getpid() if alive else RECORD.pid
    dataclasses.replace(RECORD, state=state, pid=pid).write(run)
    if not checkpoint:
        (run / "checkpoints/last.ckpt").unlink()
    assert read_run(run).state == expected


@pytest.mark.parametrize(
    ("changed", "expected"), [(None, "stopped?"), ("metrics.csv", "running"), ("checkpoints/last.ckpt", "running")]
)
def test_fit_on_another_machine_without_a_sign_of_life_may_have_stopped(
    run: Path, changed: str | None, expected: str
) -> None:
    dataclasses.replace(RECORD, state="running", host="another machine").write(run)
    for path in run.rglob("*"):
        os.utime(path, (time.time() - 3 * 3600,) * 2)
    if changed:
        os.utime(run / changed)
    assert read_run(run).state == expected


@pytest.mark.parametrize(("rows", "expected"), [(5, "finished"), (3, "resumable")])
def test_state_without_record_follows_epochs(run: Path, rows: int, expected: str) -> None:
    (run / "run.json").unlink()
    (run / "metrics.csv").write_text("".join(METRICS.splitlines(keepends=True)[:rows]))
    read = read_run(run)
    assert read.state == expected
    assert any("run.json is missing" in note for note in read.notes)


def test_row_that_is_cut_off_is_noted_and_left_out(run: Path) -> None:
    with (run / "metrics.csv").open("a") as file:
        file.write("9,2,0.")
    read = read_run(run)
    assert read.metrics["val/mIoU"][-1].value == 0.5
    assert [point.value for point in read.metrics["train/loss"]] == [1.5]
    assert any("1 damaged row" in note for note in read.notes)


@pytest.mark.parametrize("content", ["model: [", "- a list", "\x00"])
def test_damaged_config_is_noted(run: Path, content: str) -> None:
    (run / "config.yaml").write_text(content)
    read = read_run(run)
    assert read.config == {}
    assert any("config.yaml" in note for note in read.notes)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "finished"}'])
def test_damaged_record_counts_as_missing(run: Path, content: str) -> None:
    (run / "run.json").write_text(content)
    assert read_record(run) is None
    assert read_run(run).state == "finished"


def test_interrupted_test_is_noted(run: Path) -> None:
    (run / "test").mkdir()
    read = read_run(run)
    assert read.results is None
    assert any("did not end" in note for note in read.notes)


@pytest.mark.parametrize("content", ["{", json.dumps({"task": "segmentation"})])
def test_damaged_results_are_noted(run: Path, content: str) -> None:
    (run / "test").mkdir()
    (run / "test/summary.json").write_text(content)
    read = read_run(run)
    assert read.results is None
    assert any("summary.json is damaged" in note for note in read.notes)


def test_folder_that_is_no_run_is_refused_with_runs_inside(run: Path) -> None:
    with pytest.raises(UsageError, match=r"no config.yaml; it holds the runs .*unet/0"):
        read_run(run.parent)
    with pytest.raises(UsageError, match="does not exist"):
        read_run(run / "nothing")


def test_runs_are_found_at_any_depth_but_not_within_runs(run: Path) -> None:
    other = run.parents[1] / "chain/seed-0/1-fcn/0"
    other.mkdir(parents=True)
    (other / "test.yaml").write_text(CONFIG)
    (run / "inner").mkdir()
    (run / "inner/config.yaml").write_text(CONFIG)
    assert find_runs(run.parents[1]) == [other, run]
    assert read_run(other).state == "tested"
