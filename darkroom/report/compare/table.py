"""Table of a comparison, for the page, LaTeX, CSV and the terminal."""

import re
from collections.abc import Sequence

from darkroom.report.compare.rows import Row, Spread
from darkroom.report.table import Cell, Table

# Words in the names of metrics, and ends of such words.
_LOWER = {"fid", "kid", "bpd", "nll", "mse", "rmse", "mae", "lpips", "ece", "distance", "perplexity"}
_LOWER_ENDS = ("loss", "error")
_PAIRED = 3  # column of the differences


def lower_is_better(metric: str) -> bool:
    """Return True for losses, errors and distances, by the name without the stage and the class."""
    family = metric.split("/")[1 if "/" in metric else 0]
    return any(word in _LOWER or word.endswith(_LOWER_ENDS) for word in re.split("[^a-z]+", family.lower()))


def _is_lower_better(row: Row, metric: str) -> bool:
    """Return True if smaller values of a metric are better: by the config for the main metric, else by the name."""
    run = row.group.runs[0]
    if run.monitor and run.monitor.partition("/")[2] == metric.partition("/")[2]:
        return not run.maximizes
    return lower_is_better(metric)


def make_table(rows: Sequence[Row], paired: str | None) -> Table:
    """Return the table of the methods.

    Args:
        rows: methods.
        paired: name of the metric of the paired differences; None: without them.
    """
    costs = [name for name in rows[0].cost if any(row.cost[name] for row in rows)]
    metrics = [name for name in rows[0].metrics if any(row.metrics[name] for row in rows)]
    best = {name: _best([row.metrics[name] for row in rows], _is_lower_better(rows[0], name)) for name in metrics}
    stages = {name.partition("/")[0]: None for name in metrics}
    columns = ["method", "seeds", *(name.partition("/")[2] if len(stages) == 1 else name for name in metrics), *costs]
    if paired:  # beside the main metric
        columns.insert(_PAIRED, f"{paired}: difference")
    lines = []
    for row in rows:
        line: list[Cell] = [Cell(row.group.name), Cell(len(row.group.runs))]
        line += [_spread_cell(row.metrics[name], best[name]) for name in metrics]
        line += [_cost_cell(row.cost[name]) for name in costs]
        if paired:
            line.insert(_PAIRED, _difference_cell(row))
        lines.append(line)
    caption = f"Metrics of the {' and '.join(stages)} samples, mean ± standard deviation over seeds; the best is bold."
    if paired:
        caption += (
            f" Differences are those to {rows[0].group.name}, with 95 % intervals of a paired bootstrap over samples; bold "
            "without 0."
        )
    return Table("comparison", columns, lines, caption)


def _best(values: Sequence[Spread | None], lower: bool) -> float | None:
    means = [value.mean for value in values if value is not None]
    return (min if lower else max)(means) if len(means) > 1 else None


def _spread_cell(value: Spread | None, best: float | None) -> Cell:
    return Cell(None) if value is None else Cell(value.mean, str(value), bold=value.mean == best)


def _difference_cell(row: Row) -> Cell:
    found = row.difference
    if found is None:
        return Cell(None)
    return Cell(found.value, f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]", bold=found.is_clear)


def _cost_cell(value: Spread | None) -> Cell:
    if value is None:
        return Cell(None)
    return Cell(value.mean, f"{value.mean:,.0f}" if value.mean >= 100 else f"{value.mean:.3g}")


def to_markdown(table: Table) -> str:
    """Format a table as Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns)]
    lines += [[f"**{cell.shown}**" if cell.bold else cell.shown for cell in row] for row in table.cells]
    return "\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines) + "\n"
