"""Confusion matrices of a report: as a table, as plots, and as a list of the most frequent confusions."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from darkroom.callbacks.plotting.matrix import matrix
from darkroom.report.gallery import Gallery
from darkroom.report.markup import Html, element, folded
from darkroom.report.outputs import Outputs, figures
from darkroom.report.table import Cell, Row, Table

_MOST_CLASSES = 25  # of a matrix as a table
_MOST_PAIRS = 200
Key = Callable[[int, int], str]


def show_confusion(
    counts: np.ndarray,
    names: Sequence[str],
    outputs: Outputs,
    gallery: Gallery,
    key: Key,
    unit: str,
    columns: Sequence[str] = (),
) -> list[Html]:
    """Return a confusion matrix as a table whose cells lead to images, the pairs that are confused most, and plots.

    Args:
        counts: int (K, K), with the truth along the rows.
        names: of the rows.
        outputs: writes the files.
        gallery: of the images.
        key: of the samples with a true and a predicted class.
        unit: of the counts, such as ``images``.
        columns: names of the columns; default: those of the rows.
    """
    columns = columns or names
    known = gallery.counts
    fractions = counts / np.maximum(1, counts.sum(1, keepdims=True))

    def cell(i: int, j: int, value: float) -> Cell:
        label = f"{names[i]} predicted as {columns[j]}"
        return gallery.cell(value, key(i, j), label, known, heat=float(fractions[i, j]), wrong=i != j)

    blocks = []
    if len(names) <= _MOST_CLASSES:
        rows: list[Row] = [
            [name, *(cell(i, j, int(count)) if count else Cell(0) for j, count in enumerate(counts[i]))]
            for i, name in enumerate(names)
        ]
        caption = f"Number of {unit} by true class (row) and predicted class (column). Colour: fraction of the row."
        blocks.append(outputs.table(Table("confusion", ["true class", *columns], rows, caption, matrix=True)))
    pairs = [(int(counts[i, j]), i, j) for i, j in zip(*counts.nonzero(), strict=True) if i != j]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    if pairs:
        listed: list[Row] = [
            [names[i], columns[j], replace(cell(i, j, count), heat=0), float(fractions[i, j])]
            for count, i, j in pairs[:_MOST_PAIRS]
        ]
        heads = ("true class", "predicted class", unit, "fraction of the true class")
        blocks += [element("h3", "Most frequent confusions"), outputs.table(Table("confusions", heads, listed))]
    plots = figures(
        outputs.plot(
            matrix(counts, names, columns, unit=unit, width=outputs.width),
            "confusion-counts",
            f"Confusion matrix: {unit}.",
        ),
        outputs.plot(
            matrix(counts, names, columns, normalize=True, width=outputs.width),
            "confusion-normalized",
            "Confusion matrix: fractions of each true class.",
        ),
    )
    blocks.append(folded("Confusion matrix as a figure", plots))
    return blocks
