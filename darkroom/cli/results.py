"""Results that commands print at their end: metrics, the best checkpoint and the next commands."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint

from darkroom.errors import UserError
from darkroom.lightning_modules.utils.safe_load import read_safely
from darkroom.report.card.write import FILE, NEW_FILE, write_card


def format_metrics(metrics: Mapping[str, float], stage: str, monitor: str) -> str:
    """Format metrics with four significant digits: the main one first, losses in a separate block at the end.

    Args:
        metrics: values by name, such as ``test/mIoU``.
        stage: val or test.
        monitor: main metric of the model in validation, such as ``val/mIoU``.
    """
    main = f"{stage}/{monitor.split('/', 1)[-1]}"
    losses = sorted(name for name in metrics if name != main and "loss" in name)
    others = sorted(name for name in metrics if name not in (main, *losses))
    groups = [[main] if main in metrics else [], others, losses]
    width = max(map(len, metrics), default=0)
    sections = ["\n".join(f"{name:{width}}  {metrics[name]:.4g}" for name in group) for group in groups if group]
    return "\n\n".join(sections)


def format_best(checkpoint: ModelCheckpoint) -> str | None:
    """Format the best value of a checkpoint's metric and its epoch; None if the checkpoint follows no metric."""
    score = checkpoint.best_model_score
    if score is None or checkpoint.monitor in (None, "step", "epoch"):
        return None
    epoch = best_epoch(checkpoint)
    when = "" if epoch is None else f" in epoch {epoch}"
    return f"best {checkpoint.monitor}: {float(score):.4g}{when}"


def best_epoch(checkpoint: ModelCheckpoint) -> int | None:
    """Return the epoch of the best checkpoint's file; None without a file."""
    path = Path(checkpoint.best_model_path)
    return int(read_safely("ckpt_path", path, mmap=True)["epoch"]) if path.is_file() else None


def describe_card(run: Path) -> str:
    """Write the model card of a run; return a line with its path, or with the reason why it could not be written."""
    try:
        path = write_card(run)
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:  # damaged files of the run
        return f"  model card: not written ({error})"
    if path.name == NEW_FILE:
        return f"  model card: {path}, because {FILE} was edited outside of its notes"
    return f"  model card: {path}"


def next_commands(run: Path, checkpoint: Path, predicts: bool) -> list[str]:
    """Return the commands that test a checkpoint and predict with it.

    Args:
        run: folder of the fit.
        checkpoint: file; one outside of the run's ``checkpoints`` needs the run's config.
        predicts: True if a callback of the run writes predictions.
    """
    config = [] if checkpoint.parent == run / "checkpoints" else ["--config", str(run / "config.yaml")]
    commands = ("test", "predict") if predicts else ("test",)
    return [shlex.join(["darkroom", command, *config, "--ckpt_path", str(checkpoint)]) for command in commands]
