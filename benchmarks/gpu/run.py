"""``python -m benchmarks gpu [--budget 480] [--device cpu --tiny]``: one visit to a GPU machine.

First every method is fitted for three steps in bf16-mixed and 16-mixed; its loss must be that of the CPU. A resumed fit
must end as one that was not stopped. With two GPUs, the losses of two processes must be those of two processes on the
CPU. Then steps are timed in bf16, eager and compiled, with those of the peers, the most important first; after them the
utilization of two large U-Nets, and the demo. Rows are appended to the file as soon as they are there. The file of the
same name with the suffix .md has them as tables.
"""

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from darkroom.__main__ import keep_freed_memory

keep_freed_memory()

import torch  # noqa: E402

from benchmarks.gpu.correctness import MIXED, check_method, check_ranks, check_resume  # noqa: E402
from benchmarks.gpu.speed import EAGER, IMPORTANT, measure_demo, measure_entry, measure_utilization  # noqa: E402
from benchmarks.gpu.visit import Visit  # noqa: E402
from benchmarks.profile_steps import METHODS  # noqa: E402
from benchmarks.speed.harness import Options, machine  # noqa: E402

# Fractions of the budget that are left for what comes after the correctness, after the steps, and after the utilization.
STEPS, LARGE, DEMO = 0.5, 0.3, 0.1
PART, LONG = 60.0, 120.0  # seconds that a part may take, and one that compiles or has two processes
TINY = ("segmentation_scores",)


def tables(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown, one table for each part."""
    lines: list[str] = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        columns = list(dict.fromkeys(name for row in own for name in row if name != "part"))
        lines += ["", f"## {part.capitalize()}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(_cell(name, row.get(name)) for name in columns)} |" for row in own]
    return "\n".join(lines)


def _cell(column: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**" if column == "right" else "no"
    return "" if value is None else str(value).replace("|", "/")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the messages of Lightning's Trainer."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def main(argv: list[str]) -> int:
    """Run the visit; return 1 if a method's loss is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--budget", type=float, default=480.0, help="seconds of the whole visit")
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--tiny", action="store_true", help="one entry and small networks, to try the command")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="rows; the tables lie beside them")
    parser.add_argument(
        "--record",
        type=Path,
        help="copy of benchmarks/recorded.json that keeps the timed steps, with RESULTS.md beside it",
    )
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, and torch finds none; try the command with --device cpu --tiny")
    if arguments.record and not arguments.record.is_file():
        parser.error(f"--record must be a copy of benchmarks/recorded.json, got {arguments.record}")
    steps, large, demo = (arguments.budget * share for share in (STEPS, LARGE, DEMO))
    visit, device, tiny = Visit(arguments.out, arguments.budget), arguments.device, arguments.tiny
    dtype = "float32" if tiny else "bfloat16"
    about = machine(Options(device, dtype))
    visit.add(part="machine", name=about, date=datetime.now().astimezone().isoformat(timespec="seconds"))

    with _quiet():
        for name in METHODS:
            visit.run("correctness", name, partial(check_method, name, device, MIXED[device]), reserve=steps)
        visit.run("correctness", "unet, resumed", partial(check_resume, "unet", device), reserve=steps)
        if device == "cpu" or torch.cuda.device_count() > 1:
            visit.run(
                "correctness", "unet, two processes", partial(check_ranks, "unet", device), limit=LONG, reserve=steps
            )
        eager = Options(device, dtype, channels_last=True, rounds=1 if tiny else 5)
        both = [eager] if tiny else [eager, replace(eager, compile=True)]
        for name, options in product(TINY if tiny else IMPORTANT, both):
            if options.compile and name in EAGER:
                continue
            measured = partial(measure_entry, name, options, arguments.record)
            visit.run("speed", name, measured, LONG if options.compile else PART, reserve=large)
        for options in both:
            measured = partial(measure_utilization, options, tiny)
            visit.run("utilization", "training step", measured, LONG if options.compile else PART, reserve=demo)
        visit.run("demo", "configs/segmentation/unet.yaml", partial(measure_demo, device, 10 if tiny else 200))
    title = "Measured on a GPU" if device == "cuda" else "Dry run on a CPU"
    words = [
        f"--budget {arguments.budget:g}",
        *(["--device cpu"] if device == "cpu" else []),
        *(["--tiny"] if tiny else []),
        *([f"--record {arguments.record}"] if arguments.record else []),
    ]
    spent = f"{visit.rows[0]['date'][:10]}; {arguments.budget - visit.left:.0f} s"
    head = f"# {title}\n\n`python -m benchmarks gpu {' '.join(words)}` on {about}; {spent}\n"
    arguments.out.with_suffix(".md").write_text(head + tables(visit.rows[1:]) + "\n", encoding="utf-8")
    wrong = [
        row for row in visit.rows if row.get("right") is False or (row["part"] == "correctness" and "error" in row)
    ]
    return int(bool(wrong))
