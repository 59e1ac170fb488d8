"""``python -m benchmarks [NAME ...] [--device cuda] [--dtype bfloat16] [--compile] [--channels-last] [--record]``

Commands of their own: ``gpu``, one visit to a GPU machine; ``plans``, the plans of the papers' recipes; ``plan_check``,
predicted against measured steps; ``growth``, exponents of work and memory. See ``benchmarks.gpu.run`` and
``benchmarks.planning``.
"""

import argparse
import importlib
import json
import os
import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path

from darkroom.__main__ import keep_freed_memory

if "--plain" not in sys.argv:
    keep_freed_memory()

import benchmarks.entries  # noqa: F401 (registers the entries)
from benchmarks.record import PAGE, RECORDED, keep, load_of, measure, table
from benchmarks.speed.harness import ENTRIES, Options, machine


def main() -> None:
    """Run the entries and print their tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"entries to run: {', '.join(ENTRIES)}; default: all")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--rounds", type=int, default=Options.rounds)
    parser.add_argument("--side", help="measure only this side of an entry")
    parser.add_argument("--plain", action="store_true", help="with the memory allocation of a plain Python process")
    parser.add_argument(
        "--json", type=Path, help="also write the results, with the load of the machine, to this JSON file"
    )
    parser.add_argument("--write", type=Path, help="also write the tables to this file")
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"keep the results as the newest ones in benchmarks/{RECORDED.name}, and write benchmarks/{PAGE.name} again",
    )
    arguments = vars(parser.parse_args())
    names, write = arguments.pop("names") or list(ENTRIES), arguments.pop("write")
    json_file, record = arguments.pop("json"), arguments.pop("record")
    plain = arguments.pop("plain")  # has acted before the first import of torch
    if record and (plain or arguments["side"]):
        parser.error("--record must be without --side and --plain, since it replaces the whole entry")
    unknown = set(names) - ENTRIES.keys()
    if unknown:
        parser.error(f"NAME must be one of {', '.join(ENTRIES)}, got {', '.join(sorted(unknown))}")
    options = Options(**arguments)
    parts = [f"`python -m benchmarks {' '.join(names)}`\non {machine(options)}\n"]
    print(parts[0])
    results = []
    for name in names:
        results.append({"entry": name, **measure(name, options)})
        parts.append(f"{table(results[-1])}\n{load_of(results[-1]['processors_of_others'], os.cpu_count())}\n")
        print(parts[-1], flush=True)
        if record:
            keep(name, results[-1], options)
    if json_file:
        about = {"date": f"{date.today():%Y-%m-%d}", "machine": machine(options), "options": asdict(options)}
        json_file.write_text(json.dumps(about | {"entries": results}, indent=1), encoding="utf-8")
    if write:
        write.write_text("# Measured\n\n" + "\n".join(parts), encoding="utf-8")


# Commands beside the entries, with their modules.
COMMANDS = {"gpu": "gpu.run", "plans": "planning.recipes", "plan_check": "planning.check", "growth": "planning.growth"}


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        raise SystemExit(importlib.import_module(f"benchmarks.{COMMANDS[sys.argv[1]]}").main(sys.argv[2:]))
    main()
