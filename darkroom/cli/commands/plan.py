"""``darkroom plan``: memory, time and cost of a config's training on GPUs, before it runs and without its data."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from darkroom.cli.building.plan_build import build_config
from darkroom.cli.console import explain
from darkroom.errors import UsageError
from darkroom.plan.counting.batch import BatchShape
from darkroom.plan.hardware import GPUS, Hardware, measure_cpu
from darkroom.plan.page import as_json, as_text
from darkroom.plan.plan import Options, Plan, make_plan
from darkroom.plan.timing import ON_CPU, Assumptions
from darkroom.plan.trainer_options import (
    PRECISIONS,
    devices_of,
    is_distributed,
    nodes_of,
    precision_of,
    strategy_of,
)

_AT_LEAST_1 = ("devices", "workers")
_POSITIVE = ("utilization", "price", "worker_rate", "train_samples", "num_classes", "objects")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="darkroom plan",
        description=__doc__,
        epilog="Other options are those of darkroom fit, such as --config FILE or --data.batch_size 8.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--gpu", default="h100", choices=[*GPUS, "cpu"], help="default: h100; cpu: this machine, measured")
    add("--devices", type=int, help="number of GPUs of all nodes; default: the config's, or one per node")
    add("--precision", choices=PRECISIONS, help="default: the config's")
    add("--strategy", choices=["ddp", "fsdp"], help="default: the config's")
    default = Assumptions.utilization
    add("--utilization", type=float, help=f"of the peak in products; default: {default}, with --gpu cpu a fitted one")
    add("--price", type=float, help="of a GPU hour")
    add(
        "--worker_rate",
        type=float,
        default=Options.worker_rate,
        help="images/s of a loader process; default: %(default)s",
    )
    add("--workers", type=int, default=Options.workers, help="loader processes per GPU; default: %(default)s")
    add("--train_samples", type=int, help="training images; default: those of the public data set")
    add("--num_classes", type=int, help="classes of data that read them from files")
    add("--image_size", type=int, nargs=2, metavar=("H", "W"), help="of images for detection, in pixels")
    add("--objects", type=int, help="boxes per image")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def plan_config(argv: Sequence[str]) -> tuple[Plan, bool]:
    """Plan the training of a command line; return the plan, and whether it is printed as JSON.

    Raises:
        UserError: an option is invalid.
        SystemExit: the parser has printed an error or the help.
    """
    known, others = _parser().parse_known_args(list(argv))
    _check(known)
    if not any(word.startswith(("--config", "-c", "--model")) for word in others):
        raise UsageError("darkroom plan needs a config: darkroom plan --config configs/segmentation/unet.yaml")
    built = build_config(others, known.num_classes)
    trainer = built.trainer.as_dict()
    devices = known.devices or devices_of(trainer)
    device: Hardware = measure_cpu() if known.gpu == "cpu" else GPUS[known.gpu]
    usual = ON_CPU if known.gpu == "cpu" else Assumptions()
    options = Options(
        device=device,
        devices=devices or nodes_of(trainer),
        strategy=known.strategy or strategy_of(trainer),
        precision=known.precision or precision_of(trainer),
        assumed=usual if known.utilization is None else replace(usual, utilization=known.utilization),
        price=known.price,
        worker_rate=known.worker_rate,
        workers=known.workers,
        samples=known.train_samples,
        shape=BatchShape(image_size=known.image_size and tuple(known.image_size), objects=known.objects),
    )
    plan = make_plan(built.model, built.data, trainer, options)
    if devices is None and (is_distributed(trainer) or known.strategy):
        plan = replace(
            plan, advice=("the number of GPUs is unknown, one per node is planned: --devices N", *plan.advice)
        )
    return plan, known.json


def _check(known: argparse.Namespace) -> None:
    """Check the ranges of the options.

    Raises:
        UsageError: an option is out of its range.
    """
    values = vars(known)
    for name in _AT_LEAST_1:
        if values[name] is not None and values[name] < 1:
            raise UsageError(f"--{name} must be at least 1, got {values[name]}")
    for name in _POSITIVE:
        if values[name] is not None and not values[name] > 0:
            raise UsageError(f"--{name} must be above 0, got {values[name]}")
    if min(known.image_size or [1]) < 1:
        raise UsageError(f"--image_size must be above 0, got {' '.join(map(str, known.image_size))}")
    if known.gpu != "cpu" and (known.utilization or 0) > 1:  # of a CPU, that of a measured matrix product
        raise UsageError(f"--utilization must be at most 1, got {known.utilization}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    try:
        plan, is_json = plan_config(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return explain(error)
    except SystemExit as ended:
        return int(ended.code or 0)
    print(json.dumps(as_json(plan), indent=2) if is_json else as_text(plan))
    return 0
