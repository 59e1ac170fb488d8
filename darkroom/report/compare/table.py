"""Table of a comparison, for the page, LaTeX, CSV and the terminal."""

from collections.abc import Sequence

from darkroom.report.compare.rows import Row, Spread
from darkroom.report.table import Cell, Table

_LOWER_IS_BETTER = ("loss", "fid", "kid", "error", "bpd", "nll")  # in the names of metrics


def lower_is_better(metric: str) -> bool:
    """Return True for losses, errors and distances, by their name."""
    return any(word in metric.lower() for word in _LOWER_IS_BETTER)


def make_table(rows: Sequence[Row], paired: str | None) -> Table:
    """Return the table of the methods.

    Args:
        rows: methods.
        paired: name of the metric of the paired differences; None: without them.
    """
    costs = [name for name in rows[0].cost if any(row.cost[name] for row in rows)]
    metrics = [name for name in rows[0].metrics if any(row.metrics[name] for row in rows)]
    best = {name: _best([row.metrics[name] for row in rows], name) for name in metrics}
    columns = ["method", "seeds", *(name.partition("/")[2] for name in best)]
    columns += ([f"{paired}: difference to {rows[0].group.name}"] if paired else []) + costs
    lines = []
    for row in rows:
        line: list[Cell] = [Cell(row.group.name), Cell(len(row.group.runs))]
        line += [_spread_cell(row.metrics[name], row.metrics[name] is best[name] is not None) for name in best]
        if paired:
            line.append(_difference_cell(row))
        lines.append(line + [_cost_cell(row.cost[name]) for name in costs])
    stage = next(iter(best)).partition("/")[0]
    caption = f"Metrics of the {stage} samples, mean ± standard deviation over seeds; the best value is bold."
    if paired:
        caption += " Differences have 95 % intervals of a paired bootstrap over the test samples."
    return Table("comparison", columns, lines, caption)


def _best(values: Sequence[Spread | None], metric: str) -> Spread | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    return (min if lower_is_better(metric) else max)(known, key=lambda value: value.mean)


def _spread_cell(value: Spread | None, best: bool) -> Cell:
    return Cell(None) if value is None else Cell(value.mean, str(value), bold=best)


def _difference_cell(row: Row) -> Cell:
    found = row.difference
    if found is None:
        return Cell(None)
    return Cell(found.value, f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]", bold=False)


def _cost_cell(value: Spread | None) -> Cell:
    if value is None:
        return Cell(None)
    return Cell(value.mean, f"{value.mean:,.0f}" if value.mean >= 100 else f"{value.mean:.3g}")


def to_markdown(table: Table) -> str:
    """Format a table as Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns)]
    lines += [[f"**{cell.shown}**" if cell.bold else cell.shown for cell in row] for row in table.cells]
    return "\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines) + "\n"
