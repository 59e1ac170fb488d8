"""Tables as CSV files."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Table = dict[str, list[str]]  # cells of each column, as text


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table; floats have six significant digits, and absent cells are empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def read_table(path: Path) -> Table:
    """Read a table.

    Raises:
        ValueError: a row has fewer or more cells than there are columns, or the last line has no end.
    """
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        raise ValueError("its last line is cut off")
    columns, *rows = csv.reader(io.StringIO(text, newline=""))
    short = next((number for number, row in enumerate(rows, 2) if len(row) != len(columns)), None)
    if short is not None:
        raise ValueError(f"row {short} must have {len(columns)} cells, but has {len(rows[short - 2])}")
    cells = list(zip(*rows, strict=True)) or [()] * len(columns)
    return {name: list(column) for name, column in zip(columns, cells, strict=True)}


def numbers(column: Sequence[str]) -> np.ndarray:
    """Convert cells to float64 (N,); an empty cell is NaN."""
    return np.array([float(cell) if cell else np.nan for cell in column], dtype=np.float64)
