"""Train all methods of a family on the same data for the same time: ``python -m benchmarks.results.same_budget --help``.

A step of a method and a batch of its validation are timed first. The method then trains for the number of steps that fits
into the budget. Batches and augmentation are the same for all; the optimizer is that of the config (AdamW and a cosine
for nearly all), and some entries set its learning rate. Each fit is validated six times, on as many batches as take about
a quarter of the budget together, at least one (metrics over all samples come on top), and its best checkpoint is tested
on all test images. With ``--steps`` nothing is timed, and validations use all batches. R-CNN, whose stages are epochs,
trains for the epochs of its config; its time is in the table.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
import traceback
from pathlib import Path

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser

from benchmarks.results.commands import newest_run, read_column, read_newest_test, run_darkroom
from benchmarks.results.same_budget.entries import FAMILIES, SHARED, VALIDATIONS
from benchmarks.results.same_budget.validation import TimeValidation, limit_batches
from benchmarks.speed.harness import Options, machine
from darkroom.cli.catalog import import_all
from darkroom.cli.options.data_options import keep_data_section
from darkroom.datamodules.base import VisionDataModule

CONFIGS = Path(__file__).parents[3] / "configs"
FOREVER = ("--trainer.max_epochs", "-1")  # steps end the fit


def data_options(data: Path, root: str | None) -> list[str]:
    """Return the options that choose the data; without a root for those that come with a package."""
    return ["--config", str(data), *([] if root is None else ["--data.root", root])]


def count_classes(data: Path, root: str | None) -> int:
    """Return the number of classes of the data of a config; 1 for data without classes."""
    import_all()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_subclass_arguments(VisionDataModule, "data")
    words = keep_data_section(data_options(data, root))
    built = parser.instantiate_classes(parser.parse_args(words)).data
    return len(built.class_names) or 1


def _cells(family: str, scores: dict[str, float]) -> dict[str, str]:
    """Return the columns of a row."""

    def each(prefix: str) -> str:
        return ", ".join(
            f"{name.removeprefix(prefix)} {value:.3f}" for name, value in scores.items() if name.startswith(prefix)
        )

    if family == "segmentation":
        one = {"test mIoU": f"{scores['mIoU']:.3f}", "IoU": each("IoU/")}
        return one | {"pixel accuracy": f"{scores['pixel_accuracy']:.3f}"}
    if family == "classification":
        return {"test accuracy": f"{scores['accuracy']:.3f}"}
    if family == "captions":
        return {"samples of the caption": f"{scores['prompt_accuracy']:.3f}"}
    if family == "generation":
        elbo = f"{scores['elbo']:.0f} nats" if "elbo" in scores else ""
        obeyed = f"{scores['label_accuracy']:.3f}" if "label_accuracy" in scores else ""
        return {"cnn_fid": f"{scores['cnn_fid']:.1f}", "ELBO": elbo, "label accuracy": obeyed}
    row = {"VOC AP50": f"{scores['VOC_AP50']:.3f}", "COCO AP": f"{scores['mAP']:.3f}"}
    if "mask_mAP" in scores:
        row |= {"mask AP50": f"{scores['mask_AP50']:.3f}", "mask AP": f"{scores['mask_mAP']:.3f}"}
    return row | {"VOC AP50 of the classes": each("VOC_AP50/"), "images/s": f"{scores['images_per_second']:.1f}"}


def choose_length(
    shared: list[str], experiment: Path, batch_size: int, arguments: argparse.Namespace, extra: list[str]
) -> list[str]:
    """Return the options for the steps of a fit and its validations, from a short fit unless the steps are given."""
    limit = []
    if arguments.steps is not None:
        steps, every = arguments.steps, arguments.steps // VALIDATIONS
    else:
        probe = ["--trainer.max_steps", "12", "--trainer.limit_val_batches", "2", "--trainer.log_every_n_steps", "3"]
        probe += ["--trainer.val_check_interval", "12", "--trainer.check_val_every_n_epoch", "null"]
        probe += ["--trainer.callbacks+", f"{TimeValidation.__module__}.{TimeValidation.__name__}"]
        run_darkroom("fit", *shared, *FOREVER, *probe, "--checkpoint.save_top_k", "0")
        first, *later = read_column(newest_run(experiment) / "metrics.csv", "train/images_per_second")
        rate = statistics.median(later or [first])  # the first has the warm-up in it
        every = max(1, round(60 * arguments.minutes * rate / batch_size / VALIDATIONS))
        steps = every * VALIDATIONS
        if not any(word.startswith("--trainer.limit_val_batches") for word in extra):
            batches = limit_batches(newest_run(experiment), 60 * arguments.minutes, VALIDATIONS)
            limit = ["--trainer.limit_val_batches", str(batches)]
    length = [*FOREVER, "--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(every)]
    return [*length, "--trainer.check_val_every_n_epoch", "null", *limit]


def run(family: str, name: str, arguments: argparse.Namespace, extra: list[str]) -> dict[str, str]:
    """Train and test one method; return its row of the table."""
    start = time.perf_counter()
    entry, data = FAMILIES[family][name], arguments.data
    facts = yaml.safe_load(data.read_text())["data"]["init_args"]
    classes = count_classes(data, arguments.root)
    own = [{"CLASSES": str(classes), "OUTPUTS": str(classes + 1)}.get(value, value) for value in entry.arguments]
    batch_size = int(own[own.index("--data.batch_size") + 1]) if "--data.batch_size" in own else facts["batch_size"]
    experiment = arguments.runs_dir / f"{data.stem}-{re.sub('[^a-z0-9]+', '_', name.lower())}"
    shared = ["--config", str(CONFIGS / f"{entry.config}.yaml"), *data_options(data, arguments.root)]
    shared += [*own, *SHARED[family], *extra, "--data.num_workers", "0"]
    shared += ["--runs_dir", str(arguments.runs_dir), "--experiment", experiment.name]
    shared += ["--trainer.enable_progress_bar", "false"]

    length = [] if entry.staged else choose_length(shared, experiment, batch_size, arguments, extra)
    fitting = time.perf_counter()
    run_darkroom("fit", *shared, *length)
    fitting = time.perf_counter() - fitting
    which = "last" if entry.staged else "best"  # an earlier stage is another method
    run_darkroom("test", *shared, *(() if entry.staged else FOREVER), "--ckpt_path", which)
    scores = read_newest_test(newest_run(experiment))
    (newest_run(experiment) / "scores.json").write_text(json.dumps({"method": name, **scores}, indent=1))
    steps = "its stages" if entry.staged else length[length.index("--trainer.max_steps") + 1]
    clock = {"fit": f"{fitting / 60:.1f} min", "all in all": f"{(time.perf_counter() - start) / 60:.1f} min"}
    return {"method": name, "steps": steps, **_cells(family, scores), **clock}


def main() -> None:
    """Print the table, each row as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.same_budget", description=__doc__)
    parser.add_argument("--family", choices=list(FAMILIES), default="segmentation")
    parser.add_argument("--data", type=Path, required=True, help="config in configs/data")
    parser.add_argument("--root", help="folder that holds the data set; none for data of a package")
    parser.add_argument("--minutes", type=float, default=4.0, help="training time of each method")
    parser.add_argument("--steps", type=int, help="number of steps of each method, instead of a time")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"))
    parser.add_argument("--techniques", nargs="*", metavar="NAME", help="methods to train; default: all")
    arguments, extra = parser.parse_known_args()
    if arguments.steps is not None and arguments.steps < VALIDATIONS:
        parser.error(f"--steps must be at least {VALIDATIONS}, one for each validation, got {arguments.steps}")
    known = FAMILIES[arguments.family]
    names = arguments.techniques or list(known)
    if unknown := set(names) - known.keys():
        parser.error(f"--techniques must be of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    budget = f"{arguments.minutes} minutes" if arguments.steps is None else f"{arguments.steps} steps"
    print(f"`{arguments.data}`, {budget} each, {threads} threads, {machine(Options())}\n", flush=True)
    headed, failed = False, False
    for name in names:
        try:
            row = run(arguments.family, name, arguments, extra)
        except Exception as error:  # of any method, which must not end the table
            failed = True
            traceback.print_exc()
            what = f"{type(error).__name__}: {error}"
            print(f"{name} failed; continuing with the others: {what}", file=sys.stderr, flush=True)
            continue
        if not headed:
            headed = True
            print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}")
        print(f"| {' | '.join(row.values())} |", flush=True)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
