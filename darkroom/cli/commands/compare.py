"""``darkroom compare RUN RUN ...``: runs in one table and on one page."""

import argparse
import sys
from pathlib import Path

from darkroom.cli.options.chart_width import add_width
from darkroom.errors import UserError


def main(argv: list[str]) -> int:
    """Compare runs; return the exit code."""
    parser = argparse.ArgumentParser(
        "darkroom compare",
        description="Compare runs that were tested on the same data. Runs whose configs differ only in the seed are one "
        "method. The table is printed as Markdown; the page, its figures, LaTeX and CSV are written.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of W&B's offline run")
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="NAME", help="such as test/mIoU; default: all averages"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("comparison"),
        help="of the page, new or of an earlier comparison; default: comparison",
    )
    add_width(parser)
    options = parser.parse_args(argv)
    try:
        print(compare(options.runs, options.metrics, options.folder, options.width), end="")
    except UserError as error:
        print(f"darkroom: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def compare(folders: list[Path], metrics: list[str], folder: Path, width: float) -> str:
    """Compare runs and write the page; return the table as Markdown, notes and the path of the page.

    Raises:
        UserError: a folder has no run, runs cannot be compared, or a metric does not exist.
    """
    from darkroom.report.compare.groups import group_runs, require_comparable, seed_notes
    from darkroom.report.compare.page import require_own_folder, write_comparison
    from darkroom.report.compare.rows import make_rows, metrics_to_compare, paired_metric
    from darkroom.report.compare.table import make_table, to_markdown
    from darkroom.report.compare.wandb_folder import is_wandb_folder, read_wandb_folder
    from darkroom.report.run import read_run

    runs = [read_wandb_folder(one) if is_wandb_folder(one) else read_run(one) for one in folders]
    require_own_folder(folder)  # before the work
    groups = group_runs(runs)
    require_comparable(groups)
    names = metrics_to_compare(groups, metrics)
    rows = make_rows(groups, names)
    table = make_table(rows, paired_metric(rows))
    path = write_comparison(folder, groups, rows, table, width)
    notes = [*seed_notes(groups), *(f"{run.name}: {note}" for run in runs for note in run.notes)]
    return "\n".join([to_markdown(table), *(f"- {note}" for note in notes), f"\npage: {path}", ""])
