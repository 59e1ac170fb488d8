"""All tests of a run, in ``tests.jsonl``: metrics, and the options of model and data that differ from those of the fit.

``metrics.csv`` has the metrics of all tests too, but not with which sampler, threshold or data they were computed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from darkroom.runtime.records.options import flatten, load_yaml
from darkroom.runtime.records.results import FOLDER, read_summary

FILE = "tests.jsonl"  # in the run folder


@dataclass(frozen=True)
class PastTest:
    """Test of a run.

    Args:
        tested: time, ISO 8601 with time zone.
        checkpoint: file; None: initial weights.
        options: of model and data that differ from those of the fit, by full key.
        metrics: by name, such as ``test/mIoU``.
        samples: number of test samples; None if the test wrote no results per sample.
    """

    tested: str
    checkpoint: str | None
    options: dict[str, Any]
    metrics: dict[str, float]
    samples: int | None = None


def append_test(run: Path, checkpoint: str | None, metrics: Mapping[str, float]) -> None:
    """Append a test to those of a run; its config is ``test.yaml`` of the run folder, that of the fit ``config.yaml``."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    record = PastTest(now, checkpoint, differing_options(run), dict(metrics), _count_samples(run, metrics))
    with (run / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def _count_samples(run: Path, metrics: Mapping[str, float]) -> int | None:
    """Return the number of samples in the results of the test with these metrics."""
    try:
        summary = read_summary(run / FOLDER)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return summary.num_samples if same_metrics(summary.metrics, metrics) else None


def same_metrics(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Return True if two tests have the same metrics; nan equals nan."""
    return {name: repr(value) for name, value in one.items()} == {name: repr(value) for name, value in other.items()}


def differing_options(run: Path) -> dict[str, Any]:
    """Return the options of model and data in ``test.yaml`` that differ from those in ``config.yaml``, by full key."""
    both = []
    for name in ("config.yaml", "test.yaml"):
        try:
            content = load_yaml(run / name)
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        sections = content if isinstance(content, dict) else {}
        both.append(dict(flatten({key: sections.get(key) for key in ("model", "data")})))
    fit, test = both
    return {key: test.get(key) for key in {**fit, **test} if fit.get(key) != test.get(key)}


def read_tests(run: Path) -> list[PastTest]:
    """Return the tests of a run, oldest first; damaged lines are left out."""
    path = run / FILE
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            content = json.loads(line)
            found.append(
                PastTest(**{field.name: content[field.name] for field in fields(PastTest) if field.name in content})
            )
        except (ValueError, TypeError, KeyError):
            continue
    return found
