"""``python -m benchmarks [NAME ...] [--device cuda] [--dtype bfloat16] [--compile] [--channels-last] [--write FILE]``

Commands of their own: ``gpu``, one visit to a GPU machine; ``plans``, the plans of the papers' recipes; ``plan_check``,
predicted against measured steps; ``growth``, exponents of work and memory. See ``benchmarks.gpu.run`` and
``benchmarks.planning``.
"""

import argparse
import importlib
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from darkroom.__main__ import keep_freed_memory

keep_freed_memory()

from benchmarks.speed import trainer  # noqa: E402, F401, I001 (first: the others leave a profiler behind)
from benchmarks.speed import commands, data, detection, diffusion, generation, imagen, metrics, networks  # noqa: E402, F401 (each registers its entries)
from benchmarks.speed.harness import ENTRIES, Options, Result, machine  # noqa: E402
from benchmarks.speed.load import IDLE, processor_use, processors_of_others  # noqa: E402


def table(result: Result) -> str:
    """Format one entry as Markdown."""

    def number(value: float | None, form: str) -> str:
        return "" if value is None or math.isnan(value) else format(value, form)

    lines = [
        f"### {result.title}",
        "",
        "| | ms | images/s | peak MiB | of matmul peak | time ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name, ms, rate, memory, share, ratio in result.rows:
        cells = (
            number(ms, ".3g"),
            number(rate, ".4g"),
            number(memory, ".0f"),
            number(share, ".0%"),
            number(ratio, ".2f"),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *result.notes, ""])


def with_load(run: Callable[[Options], Result], options: Options) -> tuple[Result, float | None]:
    """Run an entry; return its result, with a note of the machine's load, and the processors that others used meanwhile."""
    before = processor_use()
    result = run(options)
    others = processors_of_others(before, processor_use())
    if others is not None:
        busy = "; repeat the measurement on an idle machine" if others > IDLE else ""
        result.notes.append(f"Other processes used {others:.2f} of {os.cpu_count()} processors meanwhile{busy}.")
    return result, others


def as_record(name: str, result: Result, others: float | None) -> dict[str, Any]:
    """Return the result of an entry as plain values; numbers that were not measured are None."""
    keys = ("name", "ms", "per_second", "peak_mib", "of_peak", "ratio")
    rows = [dict(zip(keys, row, strict=True)) for row in result.rows]
    rows = [{key: None if isinstance(v, float) and math.isnan(v) else v for key, v in row.items()} for row in rows]
    return {"entry": name, "title": result.title, "rows": rows, "notes": result.notes, "processors_of_others": others}


def main() -> None:
    """Run the entries and print their tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"entries to run: {', '.join(ENTRIES)}; default: all")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--json", type=Path, help="also write the results, with the load of the machine, to this JSON file"
    )
    parser.add_argument("--write", type=Path, help="also write the tables to this file")
    arguments = vars(parser.parse_args())
    names, write = arguments.pop("names") or list(ENTRIES), arguments.pop("write")
    json_file = arguments.pop("json")
    unknown = set(names) - ENTRIES.keys()
    if unknown:
        parser.error(f"NAME must be one of {', '.join(ENTRIES)}, got {', '.join(sorted(unknown))}")
    options = Options(**arguments)
    parts = [f"`python -m benchmarks {' '.join(names)}`\non {machine(options)}\n"]
    print(parts[0])
    results = []
    for name in names:
        result, others = with_load(ENTRIES[name], options)
        results.append(as_record(name, result, others))
        parts.append(table(result))
        print(parts[-1], flush=True)
    if json_file:
        record = {"date": f"{date.today():%Y-%m-%d}", "machine": machine(options), "options": asdict(options)}
        json_file.write_text(json.dumps(record | {"entries": results}, indent=1), encoding="utf-8")
    if write:
        write.write_text("# Measured\n\n" + "\n".join(parts), encoding="utf-8")


# Commands beside the entries, with their modules.
COMMANDS = {"gpu": "gpu.run", "plans": "planning.recipes", "plan_check": "planning.check", "growth": "planning.growth"}


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        raise SystemExit(importlib.import_module(f"benchmarks.{COMMANDS[sys.argv[1]]}").main(sys.argv[2:]))
    main()
