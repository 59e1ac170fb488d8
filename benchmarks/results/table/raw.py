"""Raw results: one line of JSON for each method and seed."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.results.table.rows import ROOT, Row

RAW = ROOT / "docs/results.jsonl"


@dataclass(frozen=True)
class Result:
    """Measured result of a row with one seed.

    Args:
        row: name of the row.
        seed: of weights and noise; the data are always the same.
        configs: fingerprint of the configs that were measured.
        metrics: test metrics by name, without ``test/``.
        fit_seconds: processor time of the fit of each stage.
        test_seconds: processor time of the test.
        parameters: weights of the last stage, frozen ones too, without averages.
        precision: ``trainer.precision``.
        machine: processor, its cores and instruction set, and the version of torch.
        commit: of the code; ends in ``+`` if there were changes that are not committed.
    """

    row: str
    seed: int
    configs: str
    metrics: dict[str, float]
    fit_seconds: list[float]
    test_seconds: float
    parameters: int
    precision: str
    machine: str
    commit: str

    @property
    def seconds(self) -> float:
        """Processor time of all fits and the test."""
        return sum(self.fit_seconds) + self.test_seconds


def read_results(path: Path = RAW) -> list[Result]:
    """Read all results; none if the file does not exist."""
    if not path.is_file():
        return []
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write_result(path: Path, new: Result) -> None:
    """Add a result to the file, in place of an older one of the same row and seed.

    Results of the row with other configs are removed: a mean over different configs has no meaning.
    """
    others = [one for one in read_results(path) if one.row != new.row]
    same = [
        one for one in read_results(path) if one.row == new.row and one.configs == new.configs and one.seed != new.seed
    ]
    lines = [json.dumps(asdict(one)) for one in sorted([*others, *same, new], key=lambda one: (one.row, one.seed))]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(path)


def current_results(row: Row, rows: dict[str, Row], results: Iterable[Result]) -> list[Result]:
    """Return the results of a row that were measured with its configs of today, by seed."""
    found = [one for one in results if one.row == row.name]
    return [one for one in found if one.configs == row.fingerprint(rows)]
