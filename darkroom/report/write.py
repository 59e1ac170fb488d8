"""Report of a run: ``report/index.html`` in its folder, with figures and tables beside it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from darkroom.callbacks.plotting.style import WIDTHS
from darkroom.errors import UserError
from darkroom.report.curves import plot_curves
from darkroom.report.defaults import differences, option_text
from darkroom.report.markup import Html, bullet_list, element, facts, folded, link, paragraph
from darkroom.report.outputs import Outputs
from darkroom.report.page import Header, Section, write_page
from darkroom.report.paper.document import require_no_document, write_document
from darkroom.report.past_tests import past_test_sections
from darkroom.report.run import Run, read_run
from darkroom.report.table import Table, format_duration, format_value
from darkroom.report.tasks import autoencoding, captions, classification, detection, segmentation
from darkroom.report.tasks.figures import figure_sections
from darkroom.runtime.records.past_tests import read_tests
from darkroom.runtime.records.results import Results, Task

FOLDER = "report"  # in the run folder
_PLAYGROUND = "play/index.html"  # of darkroom play
_TASKS: Mapping[Task, Callable[[Results, Outputs], list[Section]]] = {
    "classification": classification.sections,
    "segmentation": segmentation.sections,
    "detection": detection.sections,
    "captions": captions.sections,
    "autoencoding": autoencoding.sections,
}
# What files that are damaged, or of another version, raise.
_DAMAGE = (UserError, KeyError, ValueError, IndexError, OSError, TypeError)


def write_report(folder: Path, width: float = WIDTHS["iccv-column"], template: bool = False) -> Path:
    """Write the report of a run, with everything that its folder has; return the path of its page.

    Args:
        folder: of the run.
        width: of charts, in inches.
        template: also write ``report/report.tex``, a LaTeX document with the tables and figures of the run.

    Raises:
        UsageError: the folder is not that of a run, or the document exists.
    """
    run = read_run(folder)
    if template:
        require_no_document(folder / FOLDER)
    outputs = Outputs(folder / FOLDER, width)
    notes = list(run.notes)
    sections: list[Section] = []

    def add(what: str, build: Callable[[], list[Section]]) -> None:
        try:
            sections.extend(build())
        except _DAMAGE as error:
            notes.append(f"{what} cannot be shown ({_describe(error)}).")

    results = run.results
    if results is not None:
        add("The test results", lambda: _TASKS[results.summary.task](results, outputs))
        notes += results.summary.notes
    elif not (folder / "test").is_dir():
        notes.append(_advise_test(run))
    add("The metrics of the test", lambda: _metric_sections(run, outputs))
    add("The tests", lambda: past_test_sections(run, read_tests(folder), outputs))
    add("The curves", lambda: [Section("curves", "Training", plot_curves(run, outputs))] if run.metrics else [])
    add("The figures", lambda: figure_sections(folder, notes))
    add("The config", lambda: _config_sections(run, outputs))
    add("The environment", lambda: _environment_sections(run))
    sections.append(_missing_section(notes))
    path = folder / FOLDER / "index.html"
    write_page(path, _header(run), sections)
    if template:
        write_document(run, outputs)
    return path


def _describe(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"there is no column or table {error}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _advise_test(run: Run) -> str:
    checkpoint = run.folder / "checkpoints" / "best.ckpt"
    return f"The run has no test results; write them with: darkroom test --ckpt_path {checkpoint}"


def _header(run: Run) -> Header:
    name, value = run.main_value
    stage, _, metric = name.partition("/")
    label = {"test": f"{metric} in the test", "val": f"{metric}, best in validation"}.get(stage, name)
    if run.results is not None and stage == "test":
        label += f", {run.results.summary.num_samples:,} samples"
    title = " on ".join(filter(None, [run.method, run.data])) or run.name
    shown = "" if value is None else format_value(value)
    return Header(f"{run.name}, {run.state}", title, shown, label, _summary(run))


def _summary(run: Run) -> list[tuple[str, object]]:
    record = run.record
    epochs = f"{run.epochs}" if run.max_epochs is None else f"{run.epochs} of {run.max_epochs}"
    pairs: list[tuple[str, object]] = [("Epochs", epochs)]
    if record is not None:
        pairs.append(("Time of training", format_duration(record.seconds)))
        if record.peak_memory_mib is not None:
            pairs.append(("Peak memory", f"{record.peak_memory_mib:,.0f} MiB"))
        if record.parameters is not None:
            pairs.append(("Parameters", f"{record.parameters:,}"))
        pairs.append(("Seed", "none" if record.seed is None else record.seed))
        pairs.append(("Commit", record.commit or "none"))
    if (run.folder / _PLAYGROUND).is_file():
        pairs.append(("Playground", link("try the model", f"../{_PLAYGROUND}")))
    return pairs


def _metric_sections(run: Run, outputs: Outputs) -> list[Section]:
    """Return the metrics of the test, and of the best epoch of validation if there are any; those of classes are folded."""
    tested = dict(run.results.summary.metrics) if run.results else run.test_metrics
    best = run.best_metrics
    names = dict.fromkeys(name.partition("/")[2] for name in [*tested, *best])
    if not names:
        return []
    stages = {"test": tested, "val": best}
    shown = [stage for stage, values in stages.items() if values]
    columns = ["metric", *({"test": "test", "val": "validation"}[stage] for stage in shown)]
    rows = [[name, *(stages[stage].get(f"{stage}/{name}") for stage in shown)] for name in names]
    lead = f"Validation has the metrics of the best {run.monitor}, at step {run.best.step:,}." if run.best else ""
    of_classes = [row for row in rows if "/" in str(row[0])]
    blocks = [outputs.table(Table("metrics", columns, [row for row in rows if row not in of_classes]))]
    if of_classes:
        blocks.append(folded("Metrics of classes", outputs.table(Table("class_metrics", columns, of_classes))))
    return [Section("metrics", "Metrics", blocks, lead)]


def _config_sections(run: Run, outputs: Outputs) -> list[Section]:
    if not run.config:
        return []
    rows = [[option, option_text(value), option_text(default)] for option, value, default in differences(run.config)]
    table = Table(
        "options", ("option", "value", "default"), rows, "Options that differ from the defaults of the classes."
    )
    text = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
    return [
        Section(
            "config",
            "Config",
            [
                outputs.table(table) if rows else paragraph("All options have their defaults."),
                folded("Full config", element("pre", text)),
            ],
        )
    ]


def _environment_sections(run: Run) -> list[Section]:
    record, results = run.record, run.results
    pairs: list[tuple[str, object]] = [("Folder", element("code", run.folder))]
    if record is not None:
        pairs += [
            ("Command", element("code", record.command)),
            ("Started", record.started),
            ("Machine", f"{record.machine} ({record.host})" if record.machine else record.host),
            ("Devices", record.devices),
            ("Precision", record.precision),
            ("Commit", f"{record.commit}" if record.commit else "not in a Git repository"),
            ("Seed", "not seeded" if record.seed is None else record.seed),
            ("Versions", ", ".join(f"{name} {version}" for name, version in (record.versions or {}).items())),
        ]
    if results is not None:
        pairs += [
            ("Tested checkpoint", element("code", results.summary.checkpoint or "initial weights")),
            ("Step of it", f"{results.summary.step:,}"),
            ("Tested", results.summary.tested),
        ]
    return [Section("environment", "Environment", [facts(pairs, "facts long")])]


def _missing_section(notes: Sequence[str]) -> Section:
    blocks: list[Html] = [bullet_list(dict.fromkeys(notes))] if notes else [paragraph("Nothing is missing.")]
    return Section("missing", "What is missing", blocks)
