"""Contents of a model card, read from the files of a run."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from darkroom.report.defaults import differences, find_class, option_text
from darkroom.report.run import Run, read_run
from darkroom.report.tasks.figures import newest_figures
from darkroom.runtime.records.past_tests import PastTest, differing_options, read_tests
from darkroom.secrets import is_secret

Split = Literal["test", "validation"]
EXPORTED = (".onnx", ".pt2", ".safetensors")  # suffixes of exported files
_MOST_FIGURES = 4
_NAME = r"[A-ZÀ-Þ][\w-]+"
_PAPER = re.compile(rf"{_NAME}(?:(?:, | & | and ){_NAME})*(?: et al\.)? \(?\d{{4}}\b")
_FOLDERS = re.compile(r"(?<![\w.:/…])(?:[A-Za-z]:)?[\\/](?:[^\s,'\"\]}\\/]+[\\/])+")  # of an absolute path


@dataclass(frozen=True)
class Documentation:
    """Docstring of a class, as far as a card shows it.

    Args:
        text: first paragraphs, as Markdown; empty if the source was not found.
        papers: cited in it, such as "Long et al. 2015".
    """

    text: str = ""
    papers: tuple[str, ...] = ()


@dataclass(frozen=True)
class CardContents:
    """Contents of a card.

    Args:
        run: read from its folder.
        family: folder of the method in ``lightning_modules``, such as segmentation; empty for a user's own class.
        method, data: docstrings of model and datamodule.
        tested: main metrics and metrics of classes of the test, by name without ``test/``; empty without a test.
        test_samples: number of test samples; None if it is not known.
        test: its time, checkpoint and options; None if they are not known.
        tests: number of all tests of the run.
        checkpoint: file, relative to the run folder; None without one.
        exported: exported files, relative to the run folder.
        figures: files by name of their folder, relative to the run folder.
        options: option, value and default, of those that differ; without secrets and folders of the machine.
    """

    run: Run
    family: str
    method: Documentation
    data: Documentation
    tested: Mapping[str, float]
    test_samples: int | None
    test: PastTest | None
    tests: int
    checkpoint: Path | None
    exported: list[Path]
    figures: Mapping[str, Path]
    options: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def validated(self) -> dict[str, float]:
        """Metrics of the best validation, by name without ``val/``."""
        return {name.removeprefix("val/"): value for name, value in self.run.best_metrics.items()}

    @property
    def main_metric(self) -> str:
        """Main metric, without its split; empty if the config names none."""
        return (self.run.monitor or "").partition("/")[2]

    def order(self, names: Iterable[str]) -> list[str]:
        """Sort the metrics that are not of single classes: the main one first, losses last."""
        shared = [name for name in dict.fromkeys(names) if "/" not in name]
        return sorted(shared, key=lambda name: (name != self.main_metric, "loss" in name))

    @property
    def validation_samples(self) -> int | None:
        """Number of validation samples; None if it is not known, or if the validation was limited to some batches."""
        limited = self.run.options.get("trainer.limit_val_batches") not in (None, 1.0)
        limited = limited or bool(self.run.options.get("trainer.overfit_batches"))
        return None if limited else self.samples.get("val")

    @property
    def samples(self) -> dict[str, int]:
        """Number of samples by split, as the fit recorded them."""
        facts = self.run.record.data if self.run.record else None
        return facts.samples if facts else {}


def read_contents(folder: Path, checkpoint: Path | None = None) -> CardContents:
    """Read the contents of a card.

    Args:
        folder: of the run.
        checkpoint: file that the card shows how to load; None: best.ckpt, else last.ckpt.

    Raises:
        UsageError: the folder is not that of a run.
    """
    run = read_run(folder)
    tests = read_tests(folder)
    summary = run.results.summary if run.results else None
    if summary is not None:
        metrics = dict(summary.metrics)
        test = next((one for one in reversed(tests) if one.metrics == metrics), None)
        test = test or PastTest(summary.tested, summary.checkpoint, differing_options(folder), metrics)
    else:
        metrics, test = run.test_metrics, tests[-1] if tests else None
    model = _class_path(run, "model")
    return CardContents(
        run=run,
        family=_family(model),
        method=_document(model),
        data=_document(_class_path(run, "data")),
        tested={name.removeprefix("test/"): value for name, value in metrics.items()},
        test_samples=summary.num_samples if summary else None,
        test=test,
        tests=len(tests),
        checkpoint=_checkpoint(folder, checkpoint),
        exported=exported_files(folder),
        figures=_figures(folder),
        options=[(key, public_text(key, value), public_text(key, default)) for key, value, default in _options(run)],
    )


def exported_files(folder: Path) -> list[Path]:
    """Return the exported files of a run with the JSON and data files beside them, relative to its folder."""
    models = [path for suffix in EXPORTED for path in folder.rglob(f"*{suffix}") if path.is_file()]
    beside = [
        other
        for model in models
        for other in model.parent.glob(f"{model.stem}*")
        if other.suffix in (".json", ".data", ".yaml") and other.is_file()
    ]
    return sorted({path.relative_to(folder) for path in [*models, *beside]})


def public_text(key: str, value: object) -> str:
    """Return the value of an option without a secret, and without the folders of absolute paths."""
    text = option_text(value)
    return "***" if is_secret(key, text) else _FOLDERS.sub("…/", text)


def _options(run: Run) -> Iterator[tuple[str, object, object]]:
    """Yield the options that differ from the defaults, but for those that depend on the machine alone."""
    machine = ("trainer.enable_progress_bar", "trainer.default_root_dir", "data.num_workers")
    yield from (row for row in differences(run.config) if row[0] not in machine)


def _class_path(run: Run, section: str) -> str:
    content = run.config.get(section)
    path = content.get("class_path") if isinstance(content, dict) else None
    return path if isinstance(path, str) else ""


def _family(class_path: str) -> str:
    parts = class_path.split(".")
    return parts[2] if parts[:2] == ["darkroom", "lightning_modules"] and len(parts) > 3 else ""


def _document(class_path: str) -> Documentation:
    source = find_class(class_path) if class_path else None
    text = (ast.get_docstring(source[1]) if source else None) or ""
    paragraphs = re.split(r"\n\n(?=[A-Z]\w*:\n)", text)[0].split("\n\n")[:2]
    shown = "\n\n".join(paragraphs).replace("``", "`")
    return Documentation(shown, tuple(dict.fromkeys(name.replace("(", "") for name in _PAPER.findall(shown))))


def _checkpoint(folder: Path, given: Path | None) -> Path | None:
    paths = [given] if given else [folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    return next((path.relative_to(folder) for path in paths if path.is_file()), None)


def _figures(folder: Path) -> dict[str, Path]:
    """Return the newest figures, those of the test first."""
    found = sorted(newest_figures(folder).items(), key=lambda item: not item[0].startswith("test_"))
    return {name: path.relative_to(folder) for name, path in found[:_MOST_FIGURES]}
