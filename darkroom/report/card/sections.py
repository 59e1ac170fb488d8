"""Text of a model card, as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from darkroom.report.card.contents import CardContents, public_text
from darkroom.report.card.licenses import NOT_STATED, initial_weights
from darkroom.report.card.metadata import pipeline_tag
from darkroom.report.table import format_duration, format_value
from darkroom.report.tasks.figures import describe_figure

_MOST_CLASSES = 50
_STATES = {
    "running": "The fit was still running when this card was written.",
    "finished": "The fit ended by itself.",
    "resumable": "The fit was stopped or killed before its end; it can be resumed.",
    "stopped": "The fit was stopped or killed before its first checkpoint.",
    "tested": "The folder of this run has a test or a validation, but no fit.",
}


def sections(contents: CardContents, license: str | None) -> Iterator[str]:
    """Yield the sections of a card.

    Args:
        contents: of the run.
        license: identifier of the hub; None: not stated.
    """
    yield _head(contents)
    yield _method(contents)
    yield _data(contents)
    yield _metrics(contents)
    yield from _figures(contents)
    yield _loading(contents)
    yield _training(contents)
    yield _options(contents)
    yield _licenses(contents, license)
    yield _limits(contents)


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines) if rows else ""


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


def _epochs(contents: CardContents) -> str:
    run = contents.run
    return f"{run.epochs:,}" if run.max_epochs is None else f"{run.epochs:,} of {run.max_epochs:,}"


def _head(contents: CardContents) -> str:
    run = contents.run
    title = " on ".join(filter(None, [run.method, run.data])) or run.name
    version = (run.record.versions or {}).get("darkroom", "") if run.record else ""
    lead = f"One run of {f'Darkroom {version}'.strip()}, an experiment framework for computer vision in PyTorch."
    state = _STATES[run.state]
    if run.state not in ("finished", "tested"):
        state += f" Finished epochs: {_epochs(contents)}."
    return _paragraphs(f"# {title}", f"{lead} {state}", _main_value(contents))


def _main_value(contents: CardContents) -> str:
    name, best = contents.main_metric, contents.run.best
    if name in contents.tested:
        return f"{name} **{format_value(contents.tested[name])}** in the test{_n(contents.test_samples)}."
    if best is None:
        return ""
    where = "no test of it" if contents.tested else "no test"
    return (
        f"{name} **{format_value(best.value)}** in validation, at its best epoch"
        f"{_n(contents.validation_samples)}; the run has {where}."
    )


def _n(samples: int | None) -> str:
    return f" (n = {samples:,})" if samples is not None else " (n is not recorded)"


def _method(contents: CardContents) -> str:
    run, document = contents.run, contents.method
    path = run.options.get("model.class_path")
    papers = (
        f"Paper: {', '.join(document.papers)}." if document.papers else "The docstring of the class names no paper."
    )
    facts = f"Class: {_code(str(path))}." if path else "The config names no class."
    if run.record and run.record.parameters is not None:
        facts += f" Weights: {run.record.parameters:,}."
    return _paragraphs("## Method", document.text, papers, facts)


def _data(contents: CardContents) -> str:
    run = contents.run
    facts = run.record.data if run.record else None
    rows: list[tuple[str, str]] = []
    counts = dict(contents.samples) | ({"test": contents.test_samples} if contents.test_samples else {})
    for split in ("train", "val", "test"):
        rows.append((f"samples, {split}", f"{counts[split]:,}" if counts.get(split) else "not recorded"))
    if facts is not None:
        rows += _shape(facts.image_shape)
        if facts.mean and facts.std:
            rows.append(
                (
                    "normalization",
                    f"(x - mean) / std of x in [0, 1]; mean {_numbers(facts.mean)}, std {_numbers(facts.std)}",
                )
            )
    names = facts.class_names if facts else run.results.summary.class_names if run.results else []
    if names:
        shown = ", ".join(names[:_MOST_CLASSES]) + (", ..." if len(names) > _MOST_CLASSES else "")
        rows.append((f"classes ({len(names):,})", shown))
    text = contents.data.text.split("\n\n")[0]
    return _paragraphs(
        "## Data",
        f"Datamodule {_code(run.data)}: {text}" if text else f"Datamodule {_code(run.data)}.",
        _table(("", ""), rows),
    )


def _shape(shape: Sequence[int] | None) -> list[tuple[str, str]]:
    if not shape:
        return []
    channels, height, width = shape
    size = f"{height} x {width} pixels" if height else "images of any size"
    return [("images", f"{size}, {channels} channel{'s' if channels > 1 else ''}")]


def _numbers(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"


def _metrics(contents: CardContents) -> str:
    tested, validated = contents.tested, contents.validated
    columns, stages = ["metric"], list[Mapping[str, float]]()
    for title, values, samples in (
        ("test", tested, contents.test_samples),
        ("validation", validated, contents.validation_samples),
    ):
        if values:
            columns.append(f"{title}{_n(samples)}")
            stages.append(values)
    if not stages:
        return _paragraphs("## Metrics", "The run has no metrics of a test or a validation.")
    names = contents.order(name for values in stages for name in values)
    rows = [[name, *(format_value(values.get(name)) for values in stages)] for name in names]
    return _paragraphs("## Metrics", _origin(contents), _table(columns, rows), _class_metrics(tested or validated))


def _origin(contents: CardContents) -> str:
    """Return sentences on which weights the metrics are of."""
    run, test, sentences = contents.run, contents.test, []
    if not contents.tested:
        sentences.append("The run was not tested: all metrics are of validation.")
    elif test is None or not test.tested:
        sentences.append("The tested checkpoint and the number of test samples are not recorded.")
    else:
        weights = f"the checkpoint {_code(Path(test.checkpoint).name)}" if test.checkpoint else "initial weights"
        sentences.append(f"The test of {test.tested} is of {weights}.")
        if not contents.is_of_checkpoint:
            sentences.append(
                f"**It is not the checkpoint below, {_code(str(contents.checkpoint))}**, which was not tested."
            )
        if test.options:
            options = ", ".join(f"`{key}: {public_text(key, value)}`" for key, value in test.options.items())
            sentences.append(f"Options that differ from those of the fit: {options}.")
        if contents.tests > 1:
            sentences.append(f"The run has {contents.tests} tests; `tests.jsonl` has all of them.")
    if run.best:
        sentences.append(
            f"Validation has the metrics of the best {_code(run.monitor or '')}, at step {run.best.step:,}."
        )
    return " ".join(sentences)


def _class_metrics(values: Mapping[str, float]) -> str:
    """Return a table of the metrics of single classes: a row for each class."""
    kinds = list(dict.fromkeys(name.partition("/")[0] for name in values if "/" in name))
    names = list(dict.fromkeys(name.partition("/")[2] for name in values if "/" in name))
    rows = [[name, *(format_value(values.get(f"{kind}/{name}")) for kind in kinds)] for name in names[:_MOST_CLASSES]]
    return _table(["class", *kinds], rows)


def _figures(contents: CardContents) -> Iterator[str]:
    blocks = []
    for name, path in contents.figures.items():
        title, caption = describe_figure(name, path)
        blocks.append(f"![{title}]({path.as_posix()})\n\n*{caption}*")
    if blocks:
        yield _paragraphs("## Figures", *blocks)


def _loading(contents: CardContents) -> str:
    run, checkpoint = contents.run, contents.checkpoint
    if checkpoint is None:
        return _paragraphs("## How to load it", "The run has no checkpoint.")
    path = run.options.get("model.class_path")
    module, _, name = str(path).rpartition(".")
    file = checkpoint.as_posix()
    lines = [
        f"from {module} import {name}",
        "",
        f'model = {name}.load_from_checkpoint("{file}", map_location="cpu").eval()',
    ]
    predict = f"darkroom predict --ckpt_path {file}"
    if pipeline_tag(contents) == "text-to-image":
        predict += " --data Prompts --data.captions '[\"...\"]'"
    elif pipeline_tag(contents) in ("image-classification", "image-segmentation", "object-detection"):
        predict += " --data.predict PHOTOS"
    return _paragraphs(
        "## How to load it",
        "In the folder of this card, in Python:" if module else "",
        "```python\n" + "\n".join(lines) + "\n```" if module else "",
        f"On the command line; `darkroom test --ckpt_path {file}` computes the metrics:",
        f"```bash\n{predict}\n```",
        _exported(contents),
        "The checkpoint is read as tensors and plain values, never as code.",
    )


def _exported(contents: CardContents) -> str:
    files = ", ".join(_code(path.as_posix()) for path in contents.exported)
    return f"Exported files, which need no Lightning: {files}." if files else ""


def _training(contents: CardContents) -> str:
    run, record = contents.run, contents.run.record
    if run.state == "tested":
        return _paragraphs("## Training", "The run has no fit.")
    steps = max((points[-1].step for points in run.metrics.values()), default=None)
    rows: list[tuple[str, object]] = [("finished epochs", _epochs(contents))]
    if record is not None and record.steps is not None:
        rows.append(("steps", f"{record.steps:,}"))
    elif steps is not None:
        rows.append(("last logged step", f"{steps:,}"))
    if record is not None:
        rows += [
            ("started", record.started),
            ("time", format_duration(record.seconds)),
            ("machine", record.machine or "not recorded"),
            ("processes", record.devices),
            ("precision", record.precision),
            ("seed", "not seeded" if record.seed is None else record.seed),
            ("commit", record.commit or "not in a Git repository"),
            ("versions", ", ".join(f"{name} {version}" for name, version in (record.versions or {}).items())),
        ]
        if record.peak_memory_mib is not None:
            rows.append(("peak memory", f"{record.peak_memory_mib:,.0f} MiB"))
    missing = ""
    if record is None:
        rows.append(("seed", run.options.get("seed_everything", "not recorded")))
        missing = "Time, machine, versions and commit are not recorded: the run has no `run.json`."
    return _paragraphs("## Training", _table(("", ""), rows), missing)


def _options(contents: CardContents) -> str:
    rows = [[_code(key), _code(value), _code(default)] for key, value, default in contents.options]
    lead = (
        "Options that differ from the defaults; `config.yaml` has all." if rows else "All options have their defaults."
    )
    return _paragraphs("## Config", lead, _table(("option", "value", "default"), rows))


def _licenses(contents: CardContents, license: str | None) -> str:
    rows = [("these weights", license or NOT_STATED), ("data", NOT_STATED)]
    rows += [(weights.name, weights.license) for weights in initial_weights(contents.run)]
    rows.append(("Darkroom, the code", "MIT"))
    return _paragraphs("## Licences", _table(("", "licence"), rows))


def _limits(contents: CardContents) -> str:
    run = contents.run
    found = [f"The metrics hold for {run.data or 'these data'}. They say nothing about other images."]
    if not contents.tested and contents.validated:
        found.append("Validation chose the checkpoint, so its metrics are higher than those of new images would be.")
    if contents.tested or contents.validated:
        found.append("They are of one run with one seed. The spread over seeds is not known.")
    if run.state in ("resumable", "stopped", "running"):
        found.append("The training did not end, so the weights may be far from their best.")
    if "no test" not in " ".join(run.notes) and not contents.tested:
        found.append("The run has no test.")
    return _paragraphs("## Limits", "\n".join(f"- {one}" for one in dict.fromkeys([*found, *run.notes])))
