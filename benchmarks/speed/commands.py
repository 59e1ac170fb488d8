"""Commands around a training: start-up, checkpoints, loading beside the step, export and report."""

import contextlib
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from benchmarks.speed.harness import Options, Result, Row, Side, compare, entry, one_thread
from darkroom.__main__ import main as darkroom
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.lightning_modules.segmentation import UNet
from darkroom.paths import find_config
from darkroom.runtime.checkpoint_io import AtomicCheckpointIO

_DEMO = "segmentation/unet.yaml"
_ROOT = str(Path(__file__).parents[2])


def _processor_seconds(command: list[str], folder: Path) -> float:
    """Return the processor time of a process and its children, which other processes change less than the time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, capture_output=True, check=True, env=os.environ | {"PYTHONPATH": _ROOT})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _table(title: str, seconds: dict[str, list[float]], work: float, notes: list[str]) -> Result:
    """Return medians of interleaved rounds, with ratios to the first side."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    rows = [Row(name, 1e3 * t, work / t, t / first) for name, t in medians.items()]
    return Result(title, rows, notes)


@entry
def start_up(options: Options) -> Result:
    """Measure the processor time of commands until they answer, or take their first step, beside that of their imports."""
    python, config = sys.executable, str(find_config(Path("configs", _DEMO)))
    fit = ["fit", "--config", config, "--trainer.accelerator", "cpu", "--trainer.num_sanity_val_steps", "0"]
    fit += ["--trainer.callbacks+", "benchmarks.first_step.StopAtFirstStep"]
    commands = {
        "imports of Lightning, torchvision and torchmetrics": [
            "-c",
            "import lightning.pytorch, torchvision, torchmetrics",
        ],
        "darkroom --help": ["-m", "darkroom", "--help"],
        "darkroom list": ["-m", "darkroom", "list"],
        "darkroom fit --help": ["-m", "darkroom", "fit", "--help"],
        "fit of make demo's config, until the first step": ["-m", "darkroom", *fit, "--data.num_workers", "0"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for name, words in commands.items():
                seconds[name].append(_processor_seconds([python, *words], Path(folder)))
    return _table("Start-up", seconds, 1, ["Processor time of a process, not elapsed time; bytecode is compiled."])


@entry
def checkpoints(options: Options) -> Result:
    """Measure saving, reading and resuming of a checkpoint with Adam's state: a U-Net of 31 M parameters."""
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        model, path, plain = UNet(num_classes=2, base_channels=64), Path(folder, "a.ckpt"), Path(folder, "b.ckpt")
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        content = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}
        files = AtomicCheckpointIO()

        def resume() -> None:
            saved = files.load_checkpoint(path, weights_only=True)
            model.load_state_dict(saved["state_dict"])
            optimizer.load_state_dict(saved["optimizer_states"][0])

        files.save_checkpoint(content, path)
        sides = [
            Side("darkroom, save: to disk, then renamed", lambda: files.save_checkpoint(content, path), 1),
            Side("torch.save", lambda: torch.save(content, plain), 1),
            Side("darkroom, read", lambda: files.load_checkpoint(path, weights_only=True), 1),
            Side("darkroom, read and load into model and optimizer", resume, 1),
        ]
        return compare(
            f"Checkpoint of {path.stat().st_size / 1e6:.0f} MB",
            sides,
            Options(rounds=options.rounds),
            peers=["torch.save"],
        )


class _Waits(Callback):
    """Measures the time from the end of a step to the start of the next one, and of the whole fit."""

    def __init__(self) -> None:
        self.ended, self.waited, self.begun, self.fitted = 0.0, 0.0, 0.0, 0.0

    def on_train_batch_start(self, trainer: Trainer, *args: object) -> None:
        """Add the time since the last step; the first two steps are not counted."""
        now = time.perf_counter()
        if trainer.global_step == 2:
            self.begun = now
        elif self.begun:
            self.waited += now - self.ended

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Note the end of a step."""
        self.ended = time.perf_counter()
        self.fitted = self.ended - self.begun


@entry
def loader_wait(options: Options) -> Result:
    """Measure the share of a fit in which the step waits for its batch: make demo's config, 64 steps, in float32."""
    seconds: dict[str, list[float]] = {"fit, per step": [], "waiting for the batch, per step": []}
    workers = min(2, max(0, (os.cpu_count() or 1) - 1))
    for _ in range(options.rounds):
        waits, steps = _Waits(), 64
        data = ShapesSegmentation(batch_size=8, train_size=8 * (steps + 2), val_size=8, num_workers=workers)
        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                accelerator="gpu" if options.device == "cuda" else "cpu",
                devices=1,
                max_epochs=1,
                limit_val_batches=0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder,
                callbacks=[waits],
            ).fit(UNet(num_classes=6, base_channels=16), data)
        for name, each in zip(seconds, (waits.fitted / steps, waits.waited / (steps - 1)), strict=True):
            seconds[name].append(each)
    note = f"{workers} loader processes. The wait includes Lightning's own work between two steps."
    return _table("Waiting for the loader", seconds, 8, [note])


@contextlib.contextmanager
def _fitted_run() -> Iterator[Path]:
    """Context with the folder of a run of make demo's config with small data; the working directory is its parent's."""
    before = Path.cwd()
    config = str(find_config(Path("configs", _DEMO)))
    sizes = [word for split in ("train", "val", "test") for word in (f"--data.{split}_size", "16")]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            options = ["--config", config, *sizes, "--data.num_workers", "0", "--trainer.accelerator", "cpu"]
            _quietly(["fit", *options, "--experiment", "it"])
            _quietly(["test", *options, "--experiment", "it", "--ckpt_path", "best"])
            yield Path("runs/it/0")
        finally:
            os.chdir(before)


def _quietly(words: list[str]) -> None:
    """Run a command of Darkroom without its output.

    Raises:
        RuntimeError: it failed.
    """
    out, argv = io.StringIO(), sys.argv
    sys.argv = ["darkroom", *words]  # which the parser of a command with subcommands reads
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = darkroom(words)
    finally:
        sys.argv = argv
    if code:
        raise RuntimeError(f"darkroom {' '.join(words)} failed:\n{out.getvalue()}")


@entry
def report_and_export(options: Options) -> Result:
    """Measure ``darkroom report`` and ``darkroom export`` of a run in one process, without their imports."""
    with one_thread(), _fitted_run() as run:

        def command(*words: str) -> Callable[[], None]:
            return lambda: _quietly(list(words))

        export = ["export", "--ckpt_path", str(run / "checkpoints/best.ckpt")]
        sides = [
            Side("darkroom report, a U-Net's run with 16 test images", command("report", str(run)), 1),
            Side("darkroom export, ONNX with its check", command(*export), 1),
        ]
        return compare("Report and export", sides, Options(rounds=options.rounds))
