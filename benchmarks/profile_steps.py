"""Profile the training step and the prediction of methods with their configs, in float32 and in bf16-mixed.

``python -m benchmarks.profile_steps [--only NAME ...] [--precision bf16-mixed] [--steps N] [--write FILE]`` runs
``darkroom fit`` on Shapes for a few steps. It prints a table: method, precision, milliseconds (median), images/s, the speed
over that in the first precision, and the three operations with the largest shares of the processor time. Operations above
10 % are bold, except convolutions and matrix products. ``--write`` also writes the table as a page, with command, date,
machine and its load.
"""

import argparse
import contextlib
import io
import logging
import os
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from darkroom.__main__ import keep_freed_memory

keep_freed_memory()

import torch  # noqa: E402
import yaml  # noqa: E402
from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from benchmarks.load import processor_use, processors_of_others  # noqa: E402
from benchmarks.record import load_of  # noqa: E402
from benchmarks.speed.harness import Options, machine  # noqa: E402
from darkroom.__main__ import main as darkroom  # noqa: E402

CONFIGS = Path(__file__).parents[1] / "configs"
FAMILIES = {
    "classification": ("vgg",),
    "segmentation": ("unet", "unet_paper", "fcn", "deconvnet", "dilated", "convolutionalized"),
    "detection": ("sliding_window", "rcnn", "fast_rcnn", "faster_rcnn", "mask_rcnn", "ssd", "yolo"),
    "autoencoding": ("autoencoder", "vae", "conditional_vae"),
    "adversarial": ("dcgan",),
    "diffusion": ("ddpm", "improved_ddpm", "ddpm_conditional", "imagen", "imagen_sr"),
}
METHODS = {name: f"{family}/{name}" for family, names in FAMILIES.items() for name in names}
SAMPLERS = ("adversarial", "diffusion")  # their predictions take many passes through the network of the training step
PRECISIONS = ("32-true", "bf16-mixed")
# In the names of torch's convolutions and matrix products; bilinear upsampling is none.
PRODUCTS = re.compile(r"conv|mm|(?<!bi)linear|addmv|attention")
WARM, LIMIT = 2, 0.1
HEADER = f"| method | precision | | ms | images/s | ratio | operations, share of the processor time |\n{7 * '|---'}|"

Shares = list[tuple[str, float]]  # operation, fraction of the processor time


@dataclass(frozen=True)
class Profile:
    """Time of a step of a fit, or of a prediction.

    Args:
        seconds: median.
        images: batch size.
        shares: of the operations.
    """

    seconds: float
    images: int
    shares: Shares


results: dict[str, Profile] = {}  # of the last fit, by kind: training step or prediction


class ProfileSteps(Callback):
    """Time and then profile the steps of a fit after its first two, then the prediction on the last batch.

    Args:
        steps: number of steps that are timed, and of steps that are profiled.
        predicts: profile the prediction too.
    """

    def __init__(self, steps: int = 3, predicts: bool = True) -> None:
        self.steps, self.predicts = steps, predicts
        self.times: list[float] = []
        self.profiler = profile(activities=[ProfilerActivity.CPU])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM + self.steps:
            self.profiler.start()
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.times.append(time.perf_counter() - self.started)
        self.batch = batch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.profiler.stop()
        images, seconds = len(self.batch["image"]), statistics.median(self.times[WARM:][: self.steps])
        results["training step"] = Profile(seconds, images, shares(self.profiler))
        if not self.predicts:
            return
        pl_module.eval()

        def predict() -> None:
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                pl_module.predict_step(self.batch, 0)

        times = [timed(predict) for _ in range(WARM + self.steps)][WARM:]
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            predict()
        results["prediction"] = Profile(statistics.median(times), images, shares(profiler))
        pl_module.train()


def timed(function: Callable[[], None]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def shares(profiler: profile) -> Shares:
    """Return the operations and their fractions of the processor time, each without the operations it calls."""
    own: dict[str, float] = {}
    for event in profiler.key_averages():
        library, _, name = event.key.partition("::")
        if library in ("aten", "torchvision"):
            own[name] = own.get(name, 0.0) + event.self_cpu_time_total
    total = sum(own.values())
    return sorted(((name, t / total) for name, t in own.items()), key=lambda pair: -pair[1])


def profile_method(name: str, precision: str, steps: int) -> dict[str, Profile]:
    """Fit a method for some steps and return its profiles, by kind."""
    results.clear()
    overlay = {
        "trainer": {
            "callbacks": None,  # instead of the config's figures and predictions
            "precision": precision,
            "max_steps": WARM + 2 * steps,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
        },
        "data": {"init_args": {"num_workers": 0}},
    }
    callback = {
        "trainer.callbacks+": f"{ProfileSteps.__module__}.ProfileSteps",
        "trainer.callbacks.steps": steps,
        "trainer.callbacks.predicts": METHODS[name].split("/")[0] not in SAMPLERS,
    }
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        file = Path(folder, "profile.yaml")
        file.write_text(yaml.safe_dump(overlay), encoding="utf-8")
        argv = ["fit", f"--config={CONFIGS / METHODS[name]}.yaml", f"--config={file}", f"--runs_dir={folder}"]
        if darkroom([*argv, *(f"--{option}={value}" for option, value in callback.items())]):
            raise SystemExit(printed.getvalue())
    return dict(results)


def format_shares(own: Shares, count: int = 5) -> str:
    """Format the largest fractions; those above the limit are bold, except products."""
    cells = []
    for name, share in own[:count]:
        bold = "**" if share > LIMIT and not PRODUCTS.search(name) else ""
        cells.append(f"{bold}{name} {share:.0%}{bold}")
    return ", ".join(cells)


def write_page(file: Path, words: list[str], precisions: list[str], rows: list[str], others: float | None) -> None:
    """Write the table as a page.

    Args:
        file: of the page.
        words: of the command line.
        precisions: of the table.
        rows: of the table.
        others: processors that other processes used.
    """
    threads = os.environ.get("OMP_NUM_THREADS")
    command = " ".join([*([f"OMP_NUM_THREADS={threads}"] if threads else []), "python -m benchmarks.profile_steps"])
    on = machine(Options(dtype=" and ".join(precisions)))
    where = f"`{command} {shlex.join(words)}`, {date.today():%Y-%m-%d}, {on}."
    about = (
        "Training steps and predictions of the methods with their configs on Shapes. Ratio: speed over that in the first "
        "precision. Bold: operations above 10 %, except convolutions and matrix products."
    )
    parts = ["# Steps of all methods", about, "\n".join([HEADER, *rows]), f"{where} {load_of(others, os.cpu_count())}"]
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    """Profile the methods and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_steps", description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="NAME", choices=METHODS, default=list(METHODS))
    parser.add_argument("--precision", nargs="*", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument(
        "--steps", type=int, default=3, help="number of steps that are timed, and of steps that are profiled"
    )
    parser.add_argument("--write", type=Path, help="also write the table to this file, as a page")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(HEADER)
    words, rows, before = sys.argv[1:], list[str](), processor_use()  # the fits replace the words of the command
    for name in arguments.only:
        first: dict[str, float] = {}
        for precision in arguments.precision:
            for kind, found in profile_method(name, precision, arguments.steps).items():
                ratio = first.setdefault(kind, found.seconds) / found.seconds
                cells = [name, precision, kind, f"{1e3 * found.seconds:.3g}", f"{found.images / found.seconds:.3g}"]
                rows.append(f"| {' | '.join([*cells, f'{ratio:.2f}', format_shares(found.shares, 3)])} |")
                print(rows[-1], flush=True)
    if arguments.write:
        others = processors_of_others(before, processor_use())
        write_page(arguments.write, words, list(arguments.precision), rows, others)


if __name__ == "__main__":
    main()
