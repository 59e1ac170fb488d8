"""``darkroom plan``: memory, time and cost of a config's training on GPUs, before it runs and without its data."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from darkroom.cli.building.plan_build import Built, build_config
from darkroom.cli.console import explain
from darkroom.errors import UsageError
from darkroom.plan.counting.batch import BatchShape
from darkroom.plan.hardware import GPUS, Hardware, measure_cpu
from darkroom.plan.page import as_json, as_text
from darkroom.plan.plan import Options, Plan, make_plan
from darkroom.plan.timing import ON_CPU, Assumptions

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="darkroom plan",
        description=__doc__,
        epilog="Other options are those of darkroom fit, such as --config FILE or --data.batch_size 8.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--gpu", default="h100", choices=[*GPUS, "cpu"], help="default: h100; cpu: this machine, measured")
    add("--devices", type=int, default=1, help="number of GPUs; default: 1")
    add("--precision", choices=PRECISIONS, help="default: the config's")
    add("--strategy", choices=["ddp", "fsdp"], default="ddp", help="default: ddp")
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
    for name in ("devices", "workers"):
        if getattr(known, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(known, name)}")
    if known.utilization is not None and not 0 < known.utilization <= 1:
        raise UsageError(f"--utilization must be a fraction in (0, 1], got {known.utilization}")
    if not any(word.startswith(("--config", "-c", "--model")) for word in others):
        raise UsageError("darkroom plan needs a config: darkroom plan --config configs/segmentation/unet.yaml")
    built = build_config(others, known.num_classes)
    device: Hardware = measure_cpu() if known.gpu == "cpu" else GPUS[known.gpu]
    usual = ON_CPU if known.gpu == "cpu" else Assumptions()
    options = Options(
        device=device,
        devices=known.devices,
        strategy=known.strategy,
        precision=known.precision or _precision(built),
        assumed=usual if known.utilization is None else replace(usual, utilization=known.utilization),
        price=known.price,
        worker_rate=known.worker_rate,
        workers=known.workers,
        samples=known.train_samples,
        shape=BatchShape(image_size=known.image_size and tuple(known.image_size), objects=known.objects),
    )
    return make_plan(built.model, built.data, built.trainer.as_dict(), options), known.json


def _precision(built: Built) -> str:
    """Return the precision of a config; others than those of ``PRECISIONS`` are planned as float32."""
    given = built.trainer.get("precision")
    return given if given in PRECISIONS else "32-true"


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
