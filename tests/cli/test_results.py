"""Results that commands print at their end: metrics, the best checkpoint and the next commands."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.cli.results import format_metrics, next_commands


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
    assert rows[0][0] == "test/mIoU"  # the config's monitor, not that of the class
    assert {"test/mIoU", "test/loss"} <= {name for name, _ in rows}
    assert all(len(value.lstrip("0.").replace(".", "")) <= 4 for _, value in rows)
    assert (
        "test/mIoU"
        not in darkroom("test", "--ckpt_path", "runs/tiny/0/checkpoints/best.ckpt", "--verbose", "false").out
    )


@pytest.mark.usefixtures("tiny_run")
def test_metrics_of_random_weights_say_so(darkroom: Callable, tiny: list[str]) -> None:
    warning = "metrics of random weights, because --ckpt_path is not set"
    assert warning in darkroom("test", *tiny).out
    assert warning in darkroom("validate", *tiny).out
    assert warning not in darkroom("test", *tiny, "--ckpt_path", "last").out


def test_fit_ends_with_best_metric_and_commands_that_work(darkroom: Callable, tiny: list[str]) -> None:
    falling = ["--checkpoint.mode", "max", "--checkpoint.monitor", "epoch_falling"]
    callback = ["--trainer.callbacks+=tests.fakes.parts.Falling"]
    out = darkroom("fit", *tiny, "--trainer.max_epochs", 2, *falling, *callback).out
    assert "best epoch_falling: 0 in epoch 0\n" in out
    commands = [shlex.split(line) for line in out.split("next:\n")[1].splitlines()]
    assert [words[:2] for words in commands] == [["darkroom", "test"], ["darkroom", "predict"]]
    for words in commands:
        assert darkroom(*words[1:]).code == 0


def test_fit_without_writer_or_metric_suggests_test_of_last_checkpoint(darkroom: Callable, tiny: list[str]) -> None:
    out = darkroom("fit", *tiny, "--trainer.callbacks", "null", "--trainer.limit_val_batches", 0).out
    assert "best " not in out
    assert out.endswith("next:\n  darkroom test --ckpt_path runs/tiny/0/checkpoints/last.ckpt\n")


def test_commands_of_checkpoint_outside_of_run_name_its_config() -> None:
    (command,) = next_commands(Path("my runs/0"), Path("elsewhere/best.ckpt"), predicts=False)
    assert command == "darkroom test --config 'my runs/0/config.yaml' --ckpt_path elsewhere/best.ckpt"


@pytest.mark.usefixtures("tiny_run")
@pytest.mark.slow
def test_commands_list_only_what_they_wrote(darkroom: Callable) -> None:
    best = ["--ckpt_path", "runs/tiny/0/checkpoints/best.ckpt"]
    for _ in range(2):  # the second time the same files are written again
        out = darkroom("test", *best).out
        assert "test_masks: runs/tiny/0/figures/test_masks/" in out
        assert "val_masks" not in out
        assert "predictions" not in out
    out = darkroom("predict", *best).out
    assert "predictions: runs/tiny/0/predictions" in out
    assert "masks:" not in out


@pytest.mark.slow
def test_piped_fit_prints_one_line_per_epoch(darkroom: Callable, tiny: list[str]) -> None:
    outcome = darkroom("fit", *tiny, "--trainer.enable_progress_bar", "true", "--trainer.max_epochs", 2)
    lines = re.findall(r"^epoch (\d) \(last: 1\), step (\d), [\d.]+ s: (.+)$", outcome.out, re.MULTILINE)
    assert [(epoch, step) for epoch, step, _ in lines] == [("0", "2"), ("1", "4")]
    assert all({"train/loss", "val/mIoU"} <= set(metrics.replace(",", "").split()) for *_, metrics in lines)
    assert "\r" not in outcome.out + outcome.err
    out = darkroom(
        "test", "--ckpt_path", "runs/tiny/0/checkpoints/best.ckpt", "--trainer.enable_progress_bar", "true"
    ).out
    assert "\r" not in out


def test_long_epoch_prints_lines_between(darkroom: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from darkroom.callbacks.training import progress_bar

    monkeypatch.setattr(progress_bar, "_LINE_INTERVAL", 0.0)
    assert re.search(
        r"^epoch 0 \(last: 0\), batch 1 of 2, ",
        darkroom("fit", *tiny, "--trainer.enable_progress_bar", "true").out,
        re.MULTILINE,
    )


def test_model_summary_lists_parts_with_parameters(darkroom: Callable, tiny: list[str]) -> None:
    outcome = darkroom("fit", *tiny, "--trainer.enable_model_summary", "true", "--trainer.log_every_n_steps", 50)
    assert "network  UNetNetwork  122 K parameters\ntotal: 122 K parameters, 0.5 MB\n" in outcome.out
    assert "FLOPs" not in outcome.out
    for noise in ("logging interval", "to estimate number of", "already configured"):
        assert noise not in outcome.err
