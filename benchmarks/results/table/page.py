"""Page docs/results.md from the raw results, and the numbers elsewhere that come from them."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results.table.raw import Result, current_results
from benchmarks.results.table.rows import CONFIGS, ROOT, Row

PAGE = ROOT / "docs/results.md"
_INTRODUCTION = """\
# Results on Shapes

<!-- Written by `make results` from docs/results.jsonl; changes by hand are lost. -->

Results of all configs that train on Shapes, the synthetic dataset, each on one processor core. The metrics are those of the
test scenes. Settings are chosen on validation scenes, except where the page of a method says otherwise.

- **Metrics**: mean over the seeds, ± the sample standard deviation. `make results` runs three seeds of a method if its
  fits take at most five minutes, else one; the table states how many have run. The seed determines initial weights and
  noise; the scenes are always the same.
- **cnn_fid**: FID with the features of a classifier that is trained on the real images and right on 99.9 % or more of its
  held-out ones; values of different sizes of images, numbers of samples and classifiers cannot be compared. Autoencoding,
  DCGAN and Improved DDPM have 1,000 samples, the other rows with a cnn_fid 400. Two sets of real images have 1.0 (32 px,
  1,000 images), 1.6 (16 px, 1,000) and 4.4 (16 px, 400), and by the classifier of the 40 classes, which judges the
  conditional diffusion models, 4.8 (16 px), 4.1 (32 px) and 4.2 (64 px, 400 each). Command: `python -m
  benchmarks.results.score_floor ShapesImages --set side=16 test_size=2000 --count 400`, for the 40 classes also
  `label=kind_colour`.
- **Time**: processor time of all fits and the test on one thread, mean over the seeds. The time of the pretraining in it is
  in brackets. The classifier that judges samples is trained once per machine, within the first row that needs it.
  Networks of other libraries have their published width; their fits take longer.
- **Parameters**: weights of the last stage, frozen ones too, without averages.

`make results` runs what is not run yet, `make results ONLY=segmentation/unet` a single row. Every test metric of every seed
is in [results.jsonl](results.jsonl).
"""
_HEAD = """\
| method | test metrics | seeds | time | parameters | precision | machine | commit |
|---|---|---|---|---|---|---|---|"""
_MARK = re.compile(
    r"(?P<number>-?\d*\.?\d+)(?P<end>\**(?: ± [\d.]+)?)(?P<mark><!-- result: (?P<row>\S+) (?P<metric>\S+) -->)"
)
_DURATION = r"(?:\d+ min(?: \d+ s)?|\d+ s)"
_MARKED_TIME = re.compile(rf"{_DURATION}(?P<mark><!-- result: (?P<row>\S+) time -->)")
_TIME = re.compile(rf"\bin {_DURATION}\b(?: on (?:one|two) CPU cores?)?(?: \(bf16\))?")


def format_value(value: float) -> str:
    """Format a metric: three decimals below 10, one below 1,000, none above."""
    return f"{value:.{3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}"


def format_time(seconds: float) -> str:
    """Format a time in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def mean(results: Sequence[Result], metric: str) -> float:
    """Return the mean of a metric over the seeds."""
    return statistics.fmean(one.metrics[metric] for one in results)


def mean_time(results: Sequence[Result]) -> str:
    """Return the mean processor time over the seeds as text."""
    return format_time(statistics.fmean(one.seconds for one in results))


def _format_metric(results: Sequence[Result], metric: str, label: str) -> str:
    value = f"{label} **{format_value(mean(results, metric))}**"
    if len(results) < 2:
        return value
    return f"{value} ± {format_value(statistics.stdev(one.metrics[metric] for one in results))}"


def _format_row(row: Row, results: Sequence[Result], machines: list[str]) -> str:
    config = row.config_files()[-1].relative_to(ROOT).as_posix()
    before = "".join(f"{earlier}, then " for earlier in row.earlier_fits())
    name = f"{before}[{row.name.rpartition('/')[2]}](<code:{config}>)"
    if options := row.stages[-1].partition(" ")[2]:
        name += f" with `{options}`"
    if not results:
        return f"| {name} | not run{f': needs {row.needs}' if row.needs else ''} | | | | | | |"
    metrics = ", ".join(_format_metric(results, metric, label) for metric, label in row.metrics.items())
    time = mean_time(results)
    pretraining = statistics.fmean(sum(one.fit_seconds[:-1]) for one in results)
    time += f" ({format_time(pretraining)})" if row.earlier_fits() else ""
    precisions, commits = (", ".join(dict.fromkeys(values)) for values in _columns(results))
    used = ", ".join(dict.fromkeys(str(machines.index(one.machine) + 1) for one in results))
    parameters = f"{results[0].parameters:,}"
    return f"| {name} | {metrics} | {len(results)} | {time} | {parameters} | {precisions} | {used} | {commits} |"


def _columns(results: Sequence[Result]) -> tuple[list[str], list[str]]:
    return [one.precision.removesuffix("-true") for one in results], [one.commit for one in results]


def render(rows: dict[str, Row], results: Sequence[Result]) -> str:
    """Return the page: a table for each family, and the machines."""
    shown = {name: current_results(row, rows, results) for name, row in rows.items()}
    machines = list(dict.fromkeys(one.machine for found in shown.values() for one in found))
    parts = [_INTRODUCTION]
    for family in dict.fromkeys(row.family for row in rows.values()):
        lines = [_format_row(row, shown[name], machines) for name, row in rows.items() if row.family == family]
        parts.append("\n".join([f"## {family.capitalize()}\n", _HEAD, *lines, ""]))
    if machines:
        parts.append("\n".join(["## Machines\n", *(f"{number}. {one}" for number, one in enumerate(machines, 1)), ""]))
    return "\n".join(parts)


def update_marked(text: str, rows: dict[str, Row], results: Sequence[Result]) -> str:
    """Set the numbers of a page that a comment marks: ``0.939<!-- result: segmentation/unet mIoU -->``.

    ``time`` in place of a metric marks the processor time, such as ``2 min 20 s``. A number keeps its decimals. Numbers of
    rows without results stay as they are.

    Raises:
        ValueError: a comment names an unknown row, or a metric that its results lack.
    """

    def find(match: re.Match[str]) -> list[Result]:
        if match["row"] not in rows:
            raise ValueError(f"{match['mark']}: {match['row']} must be a row of benchmarks/results/table/rows.yaml")
        return current_results(rows[match["row"]], rows, results)

    def updated_time(match: re.Match[str]) -> str:
        found = find(match)
        return mean_time(found) + match["mark"] if found else match[0]

    def updated(match: re.Match[str]) -> str:
        found = find(match)
        if not found:
            return match[0]
        if match["metric"] not in found[0].metrics:
            raise ValueError(f"{match['mark']}: the metric must be one of {', '.join(sorted(found[0].metrics))}")
        value = _with_decimals(mean(found, match["metric"]), match["number"])
        return f"{value}{match['end']}{match['mark']}"

    return _MARKED_TIME.sub(updated_time, _MARK.sub(updated, text))


def update_head(text: str, row: Row, rows: dict[str, Row], results: Sequence[Result]) -> str:
    """Set the numbers in the first line of a config: each that follows the name of one of the row's metrics, and the time.

    The heads of rows without results stay as they are.

    Raises:
        ValueError: the first line lacks a metric of the row, which would keep a number of another run.
    """
    found = current_results(row, rows, results)
    first, line_break, rest = text.partition("\n")
    for metric, label in row.metrics.items() if found else ():
        value = mean(found, metric)

        def updated(match: re.Match[str], value: float = value) -> str:
            return match[1] + _with_decimals(value, match[2])

        first, count = re.subn(rf"({re.escape(label)} )(-?\d*\.?\d+)", updated, first)
        if not count:
            raise ValueError(
                f"configs/{row.name}.yaml: the first line must state a number after '{label}', got {first}"
            )
    if found:
        mixed = " (bf16)" if found[0].precision == "bf16-mixed" else ""
        first = _TIME.sub(f"in {mean_time(found)} on one CPU core{mixed}", first, count=1)
    return first + line_break + rest


def _with_decimals(value: float, like: str) -> str:
    """Format a value with the decimals of another one, without its leading zero if the other has none."""
    text = f"{value:.{len(like.partition('.')[2])}f}"
    return text.removeprefix("0") if like.startswith(".") else text


def rendered_files(rows: dict[str, Row], results: Sequence[Result]) -> dict[Path, str]:
    """Return the content of every file that has results: the page, pages with marked numbers, heads of configs."""
    files = {}
    for path in [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        if "<!-- result: " in text:
            files[path] = update_marked(text, rows, results)
    for row in rows.values():
        config = row.config_files()[-1]
        if (
            config == CONFIGS / f"{row.name}.yaml"
        ):  # else the row is a variant of a config, whose head has its own numbers
            files[config] = update_head(config.read_text(encoding="utf-8"), row, rows, results)
    return files | {PAGE: render(rows, results)}
