"""Tables of a page: HTML that sorts and filters, CSV and LaTeX from one source."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from darkroom.report.markup import Html, element, escape, join, link

Value = str | int | float | None
MOST_ROWS = 500  # of a table in a page; its CSV has all
NO_VALUE = "–"
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)


@dataclass(frozen=True)
class Target:
    """Images of a gallery that a number leads to.

    Args:
        gallery: its id.
        key: of the images.
        label: describes them.
    """

    gallery: str
    key: str
    label: str


@dataclass(frozen=True)
class Cell:
    """Cell of a table.

    Args:
        value: text or a number, by which the rows are sorted; None or nan: no value.
        text: shown instead of the value.
        target: images that the cell leads to.
        bold: in HTML and LaTeX, such as the best value of a column.
        heat: strength of the background colour in [0, 1].
        wrong: the background colour is that of mistakes.
    """

    value: Value
    text: str | None = None
    target: Target | None = None
    bold: bool = False
    heat: float = 0.0
    wrong: bool = False

    @property
    def shown(self) -> str:
        """Text of the cell."""
        return format_value(self.value) if self.text is None else self.text


Row = list[Cell | Value]


@dataclass(frozen=True)
class Table:
    """Table of a page.

    Args:
        name: of its files, and its id.
        columns: heads.
        rows: a cell, or its value, for every column.
        caption: a sentence.
        matrix: True for a matrix, whose rows keep their order; the first column has their names.
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | Value]]
    caption: str = ""
    matrix: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """All rows as cells."""
        return [[value if isinstance(value, Cell) else Cell(value) for value in row] for row in self.rows]


def format_value(value: Value) -> str:
    """Return a number with four digits, a whole number with all of them, or text as it is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NO_VALUE
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}"


def format_duration(seconds: float) -> str:
    """Return a time as seconds, minutes or hours, such as 12 min 34 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def table_html(table: Table, files: Sequence[tuple[str, str]] = ()) -> Html:
    """Return a table as HTML, with at most 500 rows.

    Args:
        table: the table.
        files: names and addresses of its files, linked below.
    """
    cells = table.cells
    numeric = [_is_numeric([row[index] for row in cells]) for index in range(len(table.columns))]
    heads = [
        element("th", name, scope="col", class_="number" if number else None)
        for name, number in zip(table.columns, numeric, strict=True)
    ]
    rows = [
        element(
            "tr",
            *(
                _cell_html(cell, number, table.matrix and not i)
                for i, (cell, number) in enumerate(zip(row, numeric, strict=True))
            ),
        )
        for row in cells[:MOST_ROWS]
    ]
    body = element(
        "table",
        element("caption", table.caption) if table.caption else "",
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
        id=f"table-{table.name}",
        class_="matrix" if table.matrix else "sortable",
    )
    scroller = element("div", body, class_="table", role="region", aria_label=table.caption or table.name, tabindex=0)
    notes = [join([link(name, address), " "]) for name, address in files]
    if len(cells) > MOST_ROWS:
        notes.append(escape(f"{MOST_ROWS} of {len(cells):,} rows; the CSV has all."))
    return join([scroller, element("p", *notes, class_="files") if notes else ""])


def _is_numeric(column: Sequence[Cell]) -> bool:
    values = [cell.value for cell in column if cell.value is not None]
    return bool(values) and all(isinstance(value, int | float) for value in values)


def _cell_html(cell: Cell, number: bool, head: bool) -> Html:
    shown: object = element("b", cell.shown) if cell.bold else cell.shown
    if cell.target:
        shown = link(shown, f"#{cell.target.gallery}", data_key=cell.target.key, data_label=cell.target.label)
    kinds = ["number"] if number else []
    if cell.heat > 0:
        kinds.append("wrong" if cell.wrong else "heat")
    sorts = cell.value if number and cell.value is not None else None
    return element(
        "th" if head else "td",
        shown,
        scope="row" if head else None,
        class_=" ".join(kinds) or None,
        data_value=repr(sorts) if sorts is not None else None,
        style=f"--heat:{min(1.0, cell.heat):.3f}" if cell.heat > 0 else None,
    )


def write_csv(table: Table, path: Path) -> None:
    """Write all rows with all digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        writer.writerows(["" if cell.value is None else cell.value for cell in row] for row in table.cells)


def write_latex(table: Table, path: Path, most: int = 60) -> None:
    """Write the first rows as a ``tabular`` with the rules of ``booktabs``, to be read by ``\\input``."""
    cells = table.cells
    numeric = [_is_numeric([row[index] for row in cells]) for index in range(len(table.columns))]
    lines = [
        f"% {' '.join(table.caption.split())}" if table.caption else "%",
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{''.join('r' if number else 'l' for number in numeric)}}}",
        r"\toprule",
        _latex_line([escape_latex(name) for name in table.columns]),
        r"\midrule",
        *(_latex_line([_latex_cell(cell) for cell in row]) for row in cells[:most]),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if len(cells) > most:
        lines.insert(0, f"% The first {most} of {len(cells)} rows.")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: Cell) -> str:
    text = "--" if cell.shown == NO_VALUE else escape_latex(cell.shown)
    return rf"\textbf{{{text}}}" if cell.bold else text


def escape_latex(text: str) -> str:
    """Return text for LaTeX, in one line."""
    return " ".join(text.translate(_LATEX).split()).replace("±", r"$\pm$").replace("−", "$-$")
