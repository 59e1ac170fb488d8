"""Contract of an experiment on two ranks: same weights, disjoint samples, and the files of one process."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from darkroom.cli.cli import DarkroomCLI
from darkroom.runtime.lightning_compat import callbacks_of


def join(rank: int) -> None:
    """Set up this process as one of two ranks of torchrun."""
    variables: dict[str, object] = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
    }
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {name: str(value) for name, value in variables.items()}
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # Lightning sets it on the function when it is imported


class RunRecorder(Callback):
    """Record the initial weights of a fit, the state of its random generator and the evaluated samples."""

    def __init__(self) -> None:
        self.first: dict[str, torch.Tensor] = {}
        self.noise = torch.empty(0)
        self.seen: dict[str, list[float]] = {"val": [], "test": []}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first = {name: value.detach().clone() for name, value in pl_module.named_parameters()}
        self.noise = torch.rand(4)
        self.seen["val"].clear()  # of the sanity check

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.seen["val"] += [image.double().square().sum().item() for image in batch["image"]]

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        self.seen["test"] += [image.double().square().sum().item() for image in batch["image"]]


def record_written_files(folder: Path) -> list[str]:
    """Return a list to which every file written and folder made below a folder is appended."""
    found: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            path, writes = arguments[0], arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        elif event == "os.mkdir":
            path, writes = arguments[0], True
        else:
            return
        if writes and Path(os.fspath(path)).absolute().is_relative_to(folder.absolute()):
            found.append(os.fspath(path))

    sys.addaudithook(note)
    return found


def plain_command(rank: int, argv: Sequence[object]) -> list[str]:
    """Run one rank of a command line, which must succeed; return the files it wrote below runs/."""
    from darkroom.cli import run

    join(rank)
    written = record_written_files(Path("runs"))
    sys.argv = ["darkroom"]
    if code := run.run([str(word) for word in argv]):
        sys.exit(code)
    return written


def command(rank: int, argv: Sequence[object]) -> dict[str, Any]:
    """Run one rank of ``darkroom fit`` and of a test of the trained model; return what this rank observed."""
    from darkroom.cli import run

    join(rank)
    witness, kept, written = RunRecorder(), [], record_written_files(Path("runs"))

    class Observed(DarkroomCLI):
        def before_fit(self) -> None:
            kept.append(self)
            callbacks_of(self.trainer).append(witness)

    sys.argv = ["darkroom"]
    with patch.object(run, "DarkroomCLI", Observed):
        code = run.run([str(word) for word in argv])
    if code:
        sys.exit(code)
    (cli,) = kept
    metrics = {"fit": dict(cli.trainer.callback_metrics)}
    cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    metrics["test"] = dict(cli.trainer.callback_metrics)
    return {
        "metrics": metrics,
        "first": witness.first,
        "seen": witness.seen,
        "last": witness.last,
        "noise": witness.noise,
        "written": written,
        "step": cli.trainer.global_step,
    }
