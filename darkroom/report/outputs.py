"""Files of a page: figures as PDF, SVG and PNG, tables as CSV and LaTeX, and the HTML that shows them."""

import base64
import shutil
from pathlib import Path
from typing import Protocol

from darkroom.callbacks.plotting.style import WIDTHS
from darkroom.report.markup import Html, element, join, link
from darkroom.report.table import Table, table_html, write_csv, write_latex

_LARGEST_SVG = 400_000  # bytes; a page shows larger plots as PNG
_FONT = "'DejaVu Sans', Verdana, sans-serif"  # Verdana has the same widths, where DejaVu is not installed


class Savable(Protocol):
    """A figure that writes its files."""

    def save(self, path: Path) -> None:
        """Write ``<path>.png``, ``<path>.pdf`` and ``<path>.svg``."""


class Outputs:
    """Folder of a page, which is emptied first.

    Args:
        folder: of ``index.html``; ``figures`` and ``tables`` are inside.
        width: of charts, in inches.

    Attributes:
        captions: of the plots written so far, by the name of their files.
    """

    def __init__(self, folder: Path, width: float = WIDTHS["iccv-column"]) -> None:
        self.folder, self.width = folder, width
        self.captions: dict[str, str] = {}
        for name in ("figures", "tables"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir(parents=True)

    def table(self, table: Table) -> Html:
        """Write a table as CSV and LaTeX, and return its HTML."""
        path = self.folder / "tables" / table.name
        write_csv(table, path.with_suffix(".csv"))
        write_latex(table, path.with_suffix(".tex"))

        return table_html(table, [("CSV", f"tables/{table.name}.csv"), ("LaTeX", f"tables/{table.name}.tex")])

    def plot(self, plot: Savable, name: str, caption: str, wide: bool = False) -> Html:
        """Write a plot as PDF, SVG and PNG, and return its HTML.

        Args:
            plot: the figure.
            name: of its files.
            caption: a sentence, also the text for readers who do not see the plot.
            wide: as wide as the page; otherwise for ``figures``, which places plots side by side.
        """
        path = self.folder / "figures" / name
        plot.save(path)
        self.captions[name] = caption
        files = [(kind.upper(), f"figures/{name}.{kind}") for kind in ("pdf", "svg", "png")]
        return figure_html(_source(path), caption, files, "plot wide" if wide else "plot")


def figure_html(source: str, caption: str, files: list[tuple[str, str]], kind: str = "plot") -> Html:
    """Return a figure with its caption and links to its files.

    Args:
        source: data URI.
        caption: text.
        files: names and addresses.
        kind: classes of the style sheet.
    """
    links = join(join([link(name, address), " "]) for name, address in files)
    text = element("figcaption", caption, " ", element("span", links, class_="files"))
    return element("figure", element("img", src=source, alt=caption), text, class_=kind)


def figures(*plots: Html) -> Html:
    """Return plots side by side, or one below the other on a narrow screen."""
    return element("div", *plots, class_="figures")


def _source(path: Path) -> str:
    """Return the SVG of a plot as a data URI, or its PNG if the SVG is large."""
    svg = Path(f"{path}.svg").read_text(encoding="utf-8").replace("'DejaVu Sans'", _FONT)
    if len(svg) <= _LARGEST_SVG:
        return data_uri(svg.encode(), "svg+xml")
    return data_uri(Path(f"{path}.png").read_bytes(), "png")


def data_uri(content: bytes, kind: str) -> str:
    """Return an image of a kind, such as ``png``, as the address of itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
