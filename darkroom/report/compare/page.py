"""Page of a comparison: table, curves, differing options and the same test images side by side."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.drawing import Plot
from darkroom.errors import UsageError
from darkroom.report.compare.groups import Group, differing_options, seed_notes
from darkroom.report.compare.rows import Row
from darkroom.report.compare.side_by_side import side_by_side
from darkroom.report.curves import thin
from darkroom.report.markup import Html, bullet_list, paragraph
from darkroom.report.outputs import Outputs, figures
from darkroom.report.page import Header, Section, write_page
from darkroom.report.run import is_run
from darkroom.report.table import Table

MOST_CURVES = 6
Band = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Steps, means and standard deviations (N,) of a metric over seeds."""


def differing_table(groups: Sequence[Group]) -> Table:
    """Return the options by which the methods differ."""
    differing = differing_options(groups)
    rows = [[key, *(_option_text(key, value) for value in values)] for key, values in differing.items()]
    return Table("options", ["option", *(group.name for group in groups)], rows, "Options of the configs that differ.")


def _option_text(key: str, value: object) -> str | None:
    """Return the value of an option as text; of a class without its module. None: the config lacks it, or it is null."""
    if value is None:
        return None
    return str(value).rpartition(".")[2] if key.endswith("class_path") else str(value)


def seed_bands(group: Group, metric: str) -> Band | None:
    """Return steps, means and standard deviations (N,) of a metric over the seeds of a method; None without finite values.

    At each step the mean is over the seeds that have a finite value there. Of long curves neighbouring steps are averaged.
    """
    by_step: dict[int, list[float]] = {}
    for run in group.runs:
        for point in run.metrics.get(metric, []):
            if math.isfinite(point.value):
                by_step.setdefault(point.step, []).append(point.value)
    if not by_step:
        return None
    steps = sorted(by_step)
    means = [float(np.mean(by_step[step])) for step in steps]
    deviations = [float(np.std(by_step[step], ddof=1)) if len(by_step[step]) > 1 else 0.0 for step in steps]
    steps_, means_, deviations_ = thin(np.array([steps, means, deviations], dtype=np.float64).T).T
    return steps_, means_, deviations_


def require_own_folder(folder: Path) -> None:
    """Check that a folder is new or empty, or has an earlier comparison, since its figures and tables are replaced.

    Raises:
        UsageError: it is something else.
    """
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not (folder / "tables" / "comparison.csv").is_file():
        raise UsageError(
            f"--folder {folder} must be a new or empty folder, or that of an earlier comparison; its files are replaced"
        )


def write_comparison(folder: Path, groups: Sequence[Group], rows: Sequence[Row], table: Table, width: float) -> Path:
    """Write the page of a comparison and its files; return its path.

    Args:
        folder: that receives ``index.html``, ``figures`` and ``tables``; see ``require_own_folder``.
        groups: methods.
        rows: of the table.
        table: of metrics, differences and costs.
        width: of charts, in inches.
    """
    outputs = Outputs(folder, width)
    sections = [
        Section("results", "Results", [outputs.table(table), bullet_list(seed_notes(groups))]),
        Section("curves", "Learning curves", _curve_blocks(groups, list(rows[0].metrics), outputs)),
        Section("options", "Options that differ", _option_blocks(groups, outputs)),
        Section("images", "The same test images", side_by_side(groups)),
        Section("runs", "Runs", [outputs.table(runs_table(groups))]),
    ]
    first = groups[0].runs[0]
    header = Header(
        f"{first.data}, {first.results.summary.num_samples:,} test samples" if first.results else first.data,
        " and ".join(group.name for group in groups) if len(groups) < 4 else f"{len(groups)} methods",
    )
    path = folder / "index.html"
    write_page(path, header, sections)
    return path


def _curve_blocks(groups: Sequence[Group], metrics: Sequence[str], outputs: Outputs) -> list[Html]:
    """Return plots of the training loss and of the first metrics in validation."""
    validated = [f"val/{name.partition('/')[2]}" for name in metrics]
    names = list(dict.fromkeys([validated[0], "train/loss", "val/loss", *validated]))
    plots: list[Html] = []
    for name in names:
        bands = [(group.name, band) for group in groups if (band := seed_bands(group, name)) is not None]
        if bands and len(plots) < MOST_CURVES:
            spread = any((deviations > 0).any() for _, (_, _, deviations) in bands)
            caption = (
                f"{name}: mean over the seeds, and one standard deviation above and below." if spread else f"{name}."
            )
            file = re.sub(r"[^\w.-]+", "_", f"curve_{name}")
            plots.append(outputs.plot(plot_bands(bands, name, outputs.width), file, caption))
    return [figures(*plots)] if plots else [paragraph("No metric was logged in training or validation.")]


def plot_bands(bands: Sequence[tuple[str, Band]], metric: str, width: float) -> Plot:
    """Plot a metric by training step, with a band for the deviation over seeds."""
    series = [np.stack([steps, means], 1) for _, (steps, means, _) in bands]
    spreads = [deviations for _, (_, _, deviations) in bands]
    axes = ("training step", metric.replace("_", " "))
    return curves(series, [name for name, _ in bands], axes=axes, bands=spreads, width=width)


def _option_blocks(groups: Sequence[Group], outputs: Outputs) -> list[Html]:
    table = differing_table(groups)
    return [outputs.table(table)] if table.rows else [paragraph("The configs are equal.")]


def runs_table(groups: Sequence[Group]) -> Table:
    """Return folder, seed, state, machine and commit of every run."""
    rows = [
        [
            str(run.folder),
            group.name,
            seed,
            run.state if is_run(run.folder) else None,  # W&B's folder has none
            run.record.machine if run.record else None,
            run.record.commit if run.record else None,
            " ".join(run.notes),
        ]
        for group in groups
        for run, seed in zip(group.runs, group.seeds, strict=True)
    ]
    return Table("runs", ["run", "method", "seed", "state", "machine", "commit", "notes"], rows, "Runs of this page.")
