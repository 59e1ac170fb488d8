"""Tables of measurements as Markdown, and the page of all that were recorded."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.load import IDLE, processor_use, processors_of_others
from benchmarks.speed.harness import ENTRIES, Options, machine

FOLDER = Path(__file__).parent
RECORDED, PAGE = FOLDER / "recorded.json", FOLDER / "RESULTS.md"
REASONS = FOLDER / "slower.yaml"  # why a peer is ahead, by entry
AREAS = (
    "trainer",
    "commands",
    "data",
    "classification",
    "detection",
    "diffusion",
    "generation",
    "imagen",
    "metrics",
    "networks",
    "processes",
    "paper_steps",
)
Record = dict[str, Any]

_HEAD = """\
# Measured

The newest measurement of every entry of `python -m benchmarks`, written by `python -m benchmarks --record`. Do not edit
this file. Sides run interleaved (A B A B). Times are medians. "Of peak" is the fraction of the FLOP/s that a large matrix
product or a large 3 x 3 convolution reaches on the same machine, whichever is larger. A ratio is a time divided by that of
the first side, with its quartiles over rounds; of three rounds, the smallest and the largest.
"""


def command_of(name: str, options: Options) -> str:
    """Return the command line of an entry."""
    threads = os.environ.get("OMP_NUM_THREADS")
    words = [f"OMP_NUM_THREADS={threads}"] if threads else []
    words += ["python -m benchmarks", name]
    for field, default in asdict(Options()).items():
        if (value := asdict(options)[field]) != default:
            words.append(f"--{field.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}"))
    return " ".join(words)


def measure(name: str, options: Options) -> Record:
    """Run an entry; return its result as plain values, with command, date, machine and its load."""
    if options.compile:
        torch._dynamo.reset()  # the graphs of earlier entries, whose number is limited for each class of networks
    before = processor_use()
    result = ENTRIES[name](options)
    others = processors_of_others(before, processor_use())
    return {
        "title": result.title,
        "rows": [asdict(row) for row in result.rows],
        "notes": result.notes,
        "processors_of_others": others,
        "command": command_of(name, options),
        "date": f"{date.today():%Y-%m-%d}",
        "machine": machine(options),
        "processors": os.cpu_count(),
    }


def table(record: Record) -> str:
    """Format one entry as Markdown."""

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    lines = ["| | ms | per second | peak MiB | of peak | time ratio |", "|---|---|---|---|---|---|"]
    for row in record["rows"]:
        cells = [row["name"], number(row["ms"], ".3g"), number(row["per_second"], ".4g")]
        cells += [number(row["peak_mib"], ".0f"), number(row["of_peak"], ".0%"), format_ratio(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"### {record['title']}", "", *lines, "", *record["notes"]]).rstrip() + "\n"


def format_ratio(row: Mapping[str, Any]) -> str:
    """Return a ratio with its quartiles."""
    spread = row["spread"]
    return f"{row['ratio']:.2f}" + (f" ({spread[0]:.2f} to {spread[1]:.2f})" if spread else "")


def load_of(others: float | None, processors: int | None) -> str:
    """Return a sentence on the load of the machine."""
    if others is None:
        return ""
    busy = "" if others <= IDLE else "; compare ratios, not milliseconds"
    return f"Other processes used {others:.2f} of {processors} processors meanwhile{busy}."


def keep(name: str, record: Record, options: Options, file: Path = RECORDED) -> None:
    """Keep an entry's newest measurement for its device and precision, and write the page again.

    Args:
        name: of the entry.
        record: with machine, date and command.
        options: of the run.
        file: of all records.
    """
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known.setdefault(_section(options), {})[name] = record
    whole = file.with_name(f"{file.name}.new")  # a stopped command leaves the old file
    whole.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    whole.replace(file)
    file.with_name(PAGE.name).write_text(render(known), encoding="utf-8")


def _section(options: Options) -> str:
    threads = torch.get_num_threads()
    words = [options.device, options.dtype]
    words += [f"{threads} thread{'s' * (threads > 1)}"] if options.device == "cpu" else []
    words += [name for name, used in (("channels last", options.channels_last), ("compiled", options.compile)) if used]
    return ", ".join(words)


def render(known: Mapping[str, Mapping[str, Record]]) -> str:
    """Return the page: where a peer is ahead, then the tables by device, precision and area."""
    parts = [_HEAD, *_peers(known)]
    for section, entries in sorted(known.items()):
        parts.append(f"## {section}\n")
        for name in _in_order(entries):
            record = entries[name]
            about = f"`{record['command']}`, {record['date']}, {record['machine']}. "
            parts += [table(record), about + load_of(record["processors_of_others"], record["processors"]) + "\n"]
    return "\n".join(parts)


def _in_order(entries: Mapping[str, Record]) -> list[str]:
    """Return the names of entries by area and place in its file, and those that are no longer there at the end."""
    places = {area: place for place, area in enumerate(AREAS)}

    def place_of(name: str) -> tuple[int, int, str]:
        function = ENTRIES.get(name)
        if function is None:
            return len(places), 0, name
        return places.get(function.__module__.rpartition(".")[2], len(places)), function.__code__.co_firstlineno, name

    return sorted(entries, key=place_of)


def rows_of_peers(known: Mapping[str, Mapping[str, Record]]) -> Iterator[tuple[str, str, Record, Record]]:
    """Yield section, entry, record and row of each comparison with another program."""
    for section, entries in sorted(known.items()):
        for name in _in_order(entries):
            for row in entries[name]["rows"]:
                if row["peer"]:
                    yield section, name, entries[name], row


def is_behind(row: Mapping[str, Any]) -> bool:
    """Return whether a peer is ahead by more than the spread of the rounds."""
    return round(row["ratio"], 2) < 1 and (row["spread"] is None or row["spread"][1] < 1)


def read_reasons() -> dict[str, str]:
    """Return why a peer is ahead, by entry."""
    return yaml.safe_load(REASONS.read_text(encoding="utf-8"))


def _peers(known: Mapping[str, Mapping[str, Record]]) -> list[str]:
    reasons = read_reasons()
    lines = [
        "## Compared with other libraries",
        "",
        "<!-- --8<-- [start:peers] -->",
    ]  # which docs/guides/performance.md contains
    lines += ["Time of the peer, divided by Darkroom's: above 1, Darkroom is faster.", ""]
    lines += ["| work | where | peer | ratio | GFLOP of the peer / Darkroom | if the peer is faster: reason |"]
    lines += ["|---|---|---|---|---|---|"]
    for section, name, record, row in rows_of_peers(known):
        reason, ratio = "", format_ratio(row)
        if is_behind(row):
            reason, ratio = reasons.get(name, ""), f"**{ratio}**"
        elif round(row["ratio"], 2) < 1:
            reason = "1 lies within the spread"
        theirs, ours = (one["flops"] for one in (row, record["rows"][0]))
        work = f"{theirs / 1e9:.1f} / {ours / 1e9:.1f}" if theirs and ours else ""
        lines.append(f"| {record['title']} | {section} | {row['name']} | {ratio} | {work} | {reason} |")
    return ["\n".join([*lines, "<!-- --8<-- [end:peers] -->"]) + "\n"]
