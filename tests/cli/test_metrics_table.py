"""Table of metrics printed by validate and test."""

import re
from collections.abc import Callable

import pytest

from darkroom.cli.metrics_table import format_metrics


def test_main_metric_comes_first_and_losses_last() -> None:
    metrics = {"test/IoU/star": 0.123456789, "test/loss": 12.345678, "test/mIoU": 0.5, "test/accuracy": 1.0}
    assert format_metrics(metrics, "test", "val/mIoU").splitlines() == [
        "test/mIoU      0.5",
        "",
        "test/IoU/star  0.1235",
        "test/accuracy  1",
        "",
        "test/loss      12.35",
    ]


def test_main_metric_may_be_a_loss() -> None:
    lines = format_metrics({"val/rest": 1, "val/loss": 2, "val/a_loss": 3}, "val", "val/loss").splitlines()
    assert lines == ["val/loss    2", "", "val/rest    1", "", "val/a_loss  3"]


def test_unlogged_monitor_is_omitted() -> None:
    assert format_metrics({"test/accuracy": 0.25}, "test", "step") == "test/accuracy  0.25"


@pytest.mark.usefixtures("tiny_run")
def test_test_command_prints_four_significant_digits(darkroom: Callable) -> None:
    out = darkroom("test", "--ckpt_path", "runs/tiny/0/checkpoints/best.ckpt").out
    rows = re.findall(r"^(test/\S+)\s+(\S+)$", out, re.MULTILINE)
    assert {"test/mIoU", "test/loss"} <= {name for name, _ in rows}
    assert all(len(value.lstrip("0.").replace(".", "")) <= 4 for _, value in rows)
    assert (
        "test/mIoU"
        not in darkroom("test", "--ckpt_path", "runs/tiny/0/checkpoints/best.ckpt", "--verbose", "false").out
    )


@pytest.mark.usefixtures("tiny_run")
@pytest.mark.parametrize("command", ["test", "validate"])
def test_metrics_of_random_weights_say_so(darkroom: Callable, tiny: list[str], command: str) -> None:
    warning = "metrics of random weights, because --ckpt_path is not set"
    assert warning in darkroom(command, *tiny).out
    assert warning not in darkroom(command, *tiny, "--ckpt_path", "last").out
