"""Every segmentation technique on the same data for the same time: ``python -m benchmarks.same_budget --help``.

A technique's step is timed first; then it trains for as many steps as fit into the budget, with the same batches and
augmentation as the others, plain cross-entropy, and its config's optimizer (AdamW and a cosine for all; DeconvNet's rate is
lower). It is validated six times, and its best checkpoint is tested.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from benchmarks.harness import Options, machine

SEGMENTATION = Path(__file__).parents[1] / "configs" / "segmentation"
VALIDATIONS = 6
# Name, config, and what the data ask to be different from the embedded world.
TECHNIQUES = {
    "U-Net, width 16": ("unet", []),
    "U-Net, valid convolutions, width 8": ("unet_paper", []),
    "FCN-8s": ("fcn", []),
    "DeconvNet": ("deconvnet", []),
    "DilatedNet": ("dilated", []),
    "convolutionalized classifier": ("convolutionalized", []),
    "smp.Unet, resnet34": ("smp_unet", ["--model.network.init_args.classes", "CLASSES"]),
}


def _darkroom(command: str, *arguments: str) -> str:
    """Runs the command line; its output, or the end with its message."""
    done = subprocess.run([sys.executable, "-m", "darkroom", command, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"darkroom {command} {' '.join(arguments)}\n{done.stderr[-2000:]}")
    return done.stdout


def _column(metrics: Path, name: str) -> list[float]:
    with metrics.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def run(name: str, data: Path, root: str, minutes: float, runs: Path, extra: list[str]) -> dict[str, str]:
    """One row of the table."""
    start = time.perf_counter()
    config, own = TECHNIQUES[name]
    facts = yaml.safe_load(data.read_text())["data"]["init_args"]
    own = [str(len(facts["class_names"])) if value == "CLASSES" else value for value in own]
    shared = [
        "--config",
        str(SEGMENTATION / f"{config}.yaml"),
        "--config",
        str(data),
        "--data.root",
        root,
        *own,
        *extra,
    ]
    shared += [
        "--runs_dir",
        str(runs),
        "--experiment",
        f"{data.stem}-{config}",
        "--trainer.enable_progress_bar",
        "false",
    ]
    shared += ["--data.num_workers", "0", "--trainer.max_epochs", "-1", "--model.loss", "null"]

    probe = ["--trainer.max_steps", "12", "--trainer.limit_val_batches", "0", "--trainer.log_every_n_steps", "3"]
    _darkroom("fit", *shared, *probe, "--checkpoint.save_top_k", "0")
    newest = max((runs / f"{data.stem}-{config}").iterdir(), key=lambda folder: int(folder.name))
    rate = max(_column(newest / "metrics.csv", "train/images_per_second"))
    every = max(1, round(60 * minutes * rate / facts["batch_size"] / VALIDATIONS))
    steps = every * VALIDATIONS
    length = ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(every)]
    _darkroom("fit", *shared, *length, "--trainer.check_val_every_n_epoch", "null")
    _darkroom("test", *shared, "--ckpt_path", "best")
    newest = max((runs / f"{data.stem}-{config}").iterdir(), key=lambda folder: int(folder.name))
    scores = {key: _column(newest / "metrics.csv", key)[-1] for key in _names(newest / "metrics.csv")}
    per_class = ", ".join(f"{key[9:]} {value:.3f}" for key, value in scores.items() if key.startswith("test/IoU/"))
    return {
        "technique": name,
        "steps": str(steps),
        "test mIoU": f"{scores['test/mIoU']:.3f}",
        "IoU": per_class,
        "pixel accuracy": f"{scores['test/pixel_accuracy']:.3f}",
        "best val mIoU": f"{max(_column(newest / 'metrics.csv', 'val/mIoU')):.3f}",
        "all in all": f"{(time.perf_counter() - start) / 60:.1f} min",
    }


def _names(metrics: Path) -> list[str]:
    with metrics.open(newline="") as file:
        return [name for name in csv.DictReader(file).fieldnames or [] if name.startswith("test/")]


def main() -> None:
    """Prints the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_budget", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a config of configs/data")
    parser.add_argument("--root", required=True, help="the folder that holds the data set")
    parser.add_argument("--minutes", type=float, default=4.0, help="training time of each technique")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"))
    parser.add_argument("--techniques", nargs="*", default=list(TECHNIQUES), choices=list(TECHNIQUES), metavar="NAME")
    arguments, extra = parser.parse_known_args()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(
        f"`{arguments.data}`, {arguments.minutes} minutes each, {threads} threads, {machine(Options())}\n", flush=True
    )
    for index, name in enumerate(arguments.techniques):
        row = run(name, arguments.data, arguments.root, arguments.minutes, arguments.runs_dir, extra)
        if not index:
            print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}")
        print(f"| {' | '.join(row.values())} |", flush=True)


if __name__ == "__main__":
    main()
