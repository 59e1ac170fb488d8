"""Table of a comparison, as Markdown, LaTeX and CSV."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from darkroom.report.compare.rows import Row, Spread

_LOWER_IS_BETTER = ("loss", "fid", "kid", "error", "bpd", "nll", "minutes", "memory in MiB")
_SPECIAL = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "\\": r"\textbackslash{}"})


@dataclass(frozen=True)
class Cell:
    """Cell of the table.

    Args:
        text: with "±" between mean and deviation; empty where nothing is known.
        best: True for the best mean of its column.
    """

    text: str
    best: bool = False


def lower_is_better(metric: str) -> bool:
    """Return True for losses, errors, distances and costs, by their name."""
    return any(word in metric.lower() for word in _LOWER_IS_BETTER)


def make_table(rows: Sequence[Row], difference: str | None) -> tuple[list[str], list[list[Cell]]]:
    """Return headings and cells.

    Args:
        rows: methods.
        difference: heading of the column of paired differences; None: without it.
    """
    metrics, costs = list(rows[0].metrics), [name for name in rows[0].cost if any(row.cost[name] for row in rows)]
    heads = ["method", "seeds", *(name.partition("/")[2] for name in metrics)]
    heads += ([difference] if difference else []) + costs
    best = {name: _best([row.metrics[name] for row in rows], name) for name in metrics}
    cells = []
    for row in rows:
        line = [Cell(row.group.name), Cell(str(len(row.group.runs)))]
        line += [Cell(str(row.metrics[name] or ""), row.metrics[name] is not None and row.metrics[name] is best[name]) for name in metrics]
        if difference:
            found = row.difference
            line.append(Cell(f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" if found else ""))
        line += [Cell(_format_cost(row.cost[name])) for name in costs]
        cells.append(line)
    return heads, cells


def _best(values: Sequence[Spread | None], name: str) -> Spread | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    return (min if lower_is_better(name) else max)(known, key=lambda value: value.mean)


def _format_cost(value: Spread | None) -> str:
    if value is None:
        return ""
    return f"{value.mean:,.0f}" if value.mean >= 100 else f"{value.mean:.{max(0, 2 - int(math.log10(max(value.mean, 0.1))))}f}"


def to_markdown(heads: Sequence[str], cells: Sequence[Sequence[Cell]]) -> str:
    """Format a table as Markdown; the best values are bold."""
    lines = [heads, ["---"] * len(heads)]
    lines += [[f"**{cell.text}**" if cell.best else cell.text for cell in row] for row in cells]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def to_latex(heads: Sequence[str], cells: Sequence[Sequence[Cell]]) -> str:
    """Format a table for LaTeX's package booktabs; the best values are bold."""
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        " & ".join(map(escape_latex, heads)) + r" \\",
        r"\midrule",
        *(
            " & ".join(rf"\textbf{{{escape_latex(cell.text)}}}" if cell.best else escape_latex(cell.text) for cell in row)
            + r" \\"
            for row in cells
        ),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Escape the characters that have a meaning in LaTeX."""
    return text.translate(_SPECIAL).replace("±", r"$\pm$").replace("−", "$-$")
