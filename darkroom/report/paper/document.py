"""LaTeX document of a run: its tables, plots and figures in a template whose text is to be written."""

import shlex
import textwrap
from collections.abc import Iterable
from pathlib import Path

from darkroom.errors import UsageError
from darkroom.report.outputs import Outputs
from darkroom.report.run import Run
from darkroom.report.table import escape_latex
from darkroom.report.tasks.figures import describe_figure, newest_figures

NAME = "report.tex"  # in the folder of the report
_TEMPLATE = Path(__file__).with_name("template.tex")
_RESULTS = {"metrics": "Metrics of the run.", "classes": "Metrics of each class."}
_OPTIONS = {"options": "Options that differ from the defaults."}


def require_no_document(folder: Path) -> None:
    """Raise a UsageError if a report's folder has a document, whose text would be lost."""
    if (folder / NAME).exists():
        raise UsageError(f"{folder / NAME} exists; move it away to write it again")


def write_document(run: Run, outputs: Outputs) -> Path:
    """Write ``report.tex`` beside the figures and tables of a report; return its path.

    Args:
        run: its name, command and newest figures are filled in.
        outputs: of the report, written before.
    """
    parts = {
        "RUN": " ".join(run.name.split()),
        "FOLDER": " ".join(shlex.quote(str(run.folder)).split()),
        "MODEL": escape_latex(" on ".join(filter(None, [run.method, run.data])) or "The model"),
        "NAME": escape_latex(run.name),
        "COMMAND": _wrap(run.record.command if run.record else "the command of the fit"),
        "OPTIONS": _lines(_tables(outputs.folder, _OPTIONS)),
        "RESULTS": _lines([*_tables(outputs.folder, _RESULTS), *_plots(outputs)]),
        "FIGURES": _lines(_figures(run)),
    }
    text = _TEMPLATE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"<<{name}>>", part)
    path = outputs.folder / NAME
    path.write_text(text, encoding="utf-8")
    return path


def _wrap(command: str) -> str:
    return " \\\n  ".join(textwrap.wrap(command, 76, break_long_words=False, break_on_hyphens=False))


def _lines(commands: Iterable[str]) -> str:
    return "\n".join(commands) or "% The run has none."


def _tables(folder: Path, captions: dict[str, str]) -> Iterable[str]:
    for name, caption in captions.items():
        if (folder / "tables" / f"{name}.tex").is_file():
            yield rf"\reporttable{{tables/{name}.tex}}{{{caption}}}"


def _plots(outputs: Outputs) -> Iterable[str]:
    for name, caption in outputs.captions.items():
        yield rf"\reportfigure{{figures/{name}.pdf}}{{{escape_latex(caption)}}}"


def _figures(run: Run) -> Iterable[str]:
    for name, path in newest_figures(run.folder).items():
        vector = path.with_suffix(".pdf")
        file = (vector if vector.is_file() else path).relative_to(run.folder).as_posix()
        yield rf"\reportfigure{{../{file}}}{{{escape_latex(describe_figure(name, path)[1])}}}"
