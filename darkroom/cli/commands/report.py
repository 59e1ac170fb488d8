"""``darkroom report``: a page that shows what a run's model gets wrong, with figures and tables for print."""

import argparse
import sys
from pathlib import Path

from darkroom.cli.options.chart_width import add_width
from darkroom.errors import UserError
from darkroom.report.paper.document import NAME
from darkroom.report.write import write_report


def main(argv: list[str]) -> int:
    """Write the reports of runs; return the exit code."""
    parser = argparse.ArgumentParser(
        "darkroom report",
        description="Write report/index.html in the folder of each run: a page that opens without a server or network, "
        "with its figures (PDF, SVG, PNG) and tables (CSV, LaTeX) beside it.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, such as runs/unet/0")
    add_width(parser)
    parser.add_argument(
        "--template", action="store_true", help="also write report/report.tex, a LaTeX document to be filled with text"
    )
    options = parser.parse_args(argv)
    code = 0
    for folder in options.runs:
        try:
            page = write_report(folder, options.width, options.template)
            print(page, *([page.with_name(NAME)] if options.template else []), sep="\n")
        except UserError as error:
            print(f"darkroom: error: {error}", file=sys.stderr)
            code = error.exit_code
        except OSError as error:
            print(f"darkroom: error: {folder}: the report cannot be written ({error})", file=sys.stderr)
            code = 1
    return code
