"""``python -m benchmarks plans [--write] [NAME ...]``: the plan of every config in configs/paper, as a table.

``--write`` replaces the table in docs/guides/planning.md. Nothing is trained; no data and no weights are needed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.profile_steps import CONFIGS
from darkroom.cli.commands.plan import plan_config
from darkroom.plan.page import format_bytes, format_flops, format_number, format_seconds
from darkroom.plan.plan import Plan

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "planning.md"
BEGIN, END = "<!-- plans: python -m benchmarks plans --write -->", "<!-- end of plans -->"
_IMAGENET = ("--num_classes", "1000", "--train_samples", "1281167")  # ILSVRC 2012
_EIGHT = ("--devices", "8")
_IMAGEN = ("--devices", "64", "--strategy", "fsdp", "--worker_rate", "100")
# GPUs, batch per GPU and sizes of data, where the head of a config states them.
OPTIONS: dict[str, tuple[str, ...]] = {
    "classification/alexnet_imagenet": _IMAGENET,
    "classification/vgg16_imagenet": _IMAGENET,
    "classification/yolo_features_imagenet224": _IMAGENET,
    "detection/faster_rcnn_fpn": _EIGHT,
    "detection/mask_rcnn": _EIGHT,
    "diffusion/ddpm_lsun256": (*_EIGHT, "--data.batch_size", "8"),
    "diffusion/improved_ddpm_imagenet64": (*_EIGHT, "--data.batch_size", "16"),
    "diffusion/imagen_64": _IMAGEN,
    "diffusion/imagen_256": _IMAGEN,
    "diffusion/imagen_1024": _IMAGEN,
}
HEAD = (
    "| recipe | GPUs | parameters | images per GPU | FLOP per batch | memory per GPU | time per step | of the peak | steps "
    "| fit | GPU hours | images/s per GPU |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
)


def recipes() -> list[str]:
    """Return the names of the configs: FAMILY/NAME."""
    folder = CONFIGS / "paper"
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def plan_recipe(name: str) -> Plan:
    """Plan a recipe on H100s."""
    return plan_config(["--config", str(CONFIGS / "paper" / f"{name}.yaml"), *OPTIONS.get(name, ())])[0]


def row(name: str, plan: Plan) -> str:
    """Return the row of a recipe."""
    profile, options = plan.profile, plan.options
    strategy = f" {options.strategy}" if options.devices > 1 else ""
    precision = ", bf16" if options.precision == "bf16-mixed" else ""
    cells = (
        name,
        f"{options.devices}{strategy}{precision}",
        f"{profile.parameters / 1e6:.1f} M",
        str(profile.images),
        format_flops(profile.work.flops),
        format_bytes(plan.memory.total) + ("" if plan.fits else " **does not fit**"),
        format_seconds(plan.time.total),
        f"{plan.utilization:.0%}",
        "" if plan.recipe.steps is None else f"{plan.recipe.steps:,}",
        "" if plan.hours is None else format_seconds(3600 * plan.hours),
        "" if plan.gpu_hours is None else format_number(plan.gpu_hours),
        format_number(plan.images_per_second),
    )
    return f"| {' | '.join(cells)} |"


def rows_of_page() -> dict[str, str]:
    """Return the rows in the documentation, by recipe."""
    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return {line.split("|")[1].strip(): line for line in lines}


def main(argv: Sequence[str]) -> int:
    """Print the table, and write it to the documentation with ``--write``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks plans", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="FAMILY/NAME; default: all")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args(argv)
    lines = list(HEAD)
    print("\n".join(lines), flush=True)
    for name in arguments.names or recipes():
        lines.append(row(name, plan_recipe(name)))
        print(lines[-1], flush=True)
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        table = "\n".join(lines)
        PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0
