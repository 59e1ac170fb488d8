"""Contents of a model card, read from the files of a run."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from darkroom.report.defaults import differences, find_class, option_text
from darkroom.report.run import Run, read_run
from darkroom.report.tasks.figures import newest_figures
from darkroom.runtime.records.past_tests import PastTest, differing_options, read_tests, same_metrics
from darkroom.secrets import is_secret

Split = Literal["test", "validation"]
EXPORTED = (".onnx", ".pt2", ".safetensors")  # suffixes of exported files
_MOST_FIGURES, _MOST_PAPERS = 4, 5
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
        test: that of the checkpoint if there is one, else the newest; None without a test.
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
    test: PastTest | None
    tests: int
    checkpoint: Path | None
    exported: list[Path]
    figures: Mapping[str, Path]
    options: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def tested(self) -> dict[str, float]:
        """Metrics of the test, by name without ``test/``; empty without a test."""
        return {name.removeprefix("test/"): value for name, value in self.test.metrics.items()} if self.test else {}

    @property
    def test_samples(self) -> int | None:
        """Number of test samples; None if it is not known."""
        return self.test.samples if self.test else None

    @property
    def is_of_checkpoint(self) -> bool:
        """True if the test is of the checkpoint that the card shows how to load, as far as its name says."""
        return self.test is None or _is_of(self.test, self.checkpoint)

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
    file = _checkpoint(folder, checkpoint)
    test = _select_test(run, tests, file)
    model = _class_path(run, "model")
    return CardContents(
        run=run,
        family=_family(model),
        method=_document(model),
        data=_document(_class_path(run, "data")),
        test=test,
        tests=len(tests),
        checkpoint=file,
        exported=exported_files(folder),
        figures=_figures(folder),
        options=[(key, public_text(key, value), public_text(key, default)) for key, value, default in _options(run)],
    )


def _is_of(test: PastTest, checkpoint: Path | None) -> bool:
    return bool(test.checkpoint and checkpoint) and Path(str(test.checkpoint)).name == Path(str(checkpoint)).name


def _select_test(run: Run, tests: Sequence[PastTest], checkpoint: Path | None) -> PastTest | None:
    """Return the newest test of a checkpoint, else the newest of all; without records, one with the metrics alone."""
    summary = run.results.summary if run.results else None
    known = list(tests)
    if summary is not None:
        recorded = next((test for test in tests if same_metrics(test.metrics, summary.metrics)), None)
        options = recorded.options if recorded else differing_options(run.folder)
        last = PastTest(summary.tested, summary.checkpoint, options, dict(summary.metrics), summary.num_samples)
        known = [test for test in known if test is not recorded] + [last]
    known.sort(key=lambda test: (_is_of(test, checkpoint), test.tested))
    if not known and run.test_metrics:
        return PastTest("", None, {}, run.test_metrics)
    return known[-1] if known else None


def exported_files(folder: Path) -> list[Path]:
    """Return the exported files of a run with the JSON and data files beside them, relative to its folder."""
    models = [path for path in folder.rglob("*") if path.suffix in EXPORTED and path.is_file()]
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
    text = re.split(r"\n\n(?=[A-Z]\w*:\n)", text)[0].replace("``", "`")
    first, *more = text.split("\n\n")[:2]
    shown = [first, *(one for one in more if not one.startswith(("Batch:", "Logs")))]  # those are for programmers
    papers = (name.replace("(", "") for name in _PAPER.findall(text))
    return Documentation("\n\n".join(shown), tuple(dict.fromkeys(papers))[:_MOST_PAPERS])


def _checkpoint(folder: Path, given: Path | None) -> Path | None:
    paths = [given] if given else [folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    return next((path.absolute().relative_to(folder.absolute()) for path in paths if path.is_file()), None)


def _figures(folder: Path) -> dict[str, Path]:
    """Return the newest figures, those of the test first."""
    found = sorted(newest_figures(folder).items(), key=lambda item: not item[0].startswith("test_"))
    return {name: path.relative_to(folder) for name, path in found[:_MOST_FIGURES]}
