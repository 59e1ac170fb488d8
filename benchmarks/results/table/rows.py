"""Rows of the table of results, from rows.yaml."""

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
ROWS = Path(__file__).with_name("rows.yaml")


@dataclass(frozen=True)
class Row:
    """One method of the table; rows.yaml explains the fields.

    Args:
        name: config of the method, without ``configs/`` and ``.yaml``.
    """

    name: str
    family: str
    metrics: dict[str, str]
    stages: tuple[str, ...]
    uses: dict[str, str | list[str]] = field(default_factory=dict)
    test_only: bool = False
    test_ckpt: str = "best"
    bf16: bool = False
    package: str = ""
    needs: str = ""

    def config_files(self) -> list[Path]:
        """Return the config files of the stages."""
        return [CONFIGS / f"{shlex.split(stage)[0]}.yaml" for stage in self.stages]

    def used_rows(self) -> list[str]:
        """Return the names of the rows whose checkpoints this one uses."""
        return [name for names in self.uses.values() for name in ([names] if isinstance(names, str) else names)]

    def earlier_fits(self) -> list[str]:
        """Return the names of the configs that are fitted before the last stage, without those of a test alone."""
        paths = [*([] if self.test_only else self.used_rows()), *(stage.split()[0] for stage in self.stages[:-1])]
        return [path.rpartition("/")[2] for path in paths]

    def stage_arguments(self) -> list[str]:
        """Return the stages as ``darkroom chain`` takes them: paths, each with its options."""
        return [
            f"configs/{name}.yaml{space}{rest}" for name, space, rest in (one.partition(" ") for one in self.stages)
        ]

    def fingerprint(self, rows: dict[str, "Row"]) -> str:
        """Hash everything in the configs that affects the result, without comments.

        Args:
            rows: all rows, for those that this one uses.
        """
        content = [_read_config(path) for path in self.config_files()]
        used = [rows[name].fingerprint(rows) for name in self.used_rows()]
        text = json.dumps([content, self.stages, self.test_ckpt, used], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@cache
def _read_config(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def read_rows(path: Path = ROWS) -> dict[str, Row]:
    """Read the rows by name, in the order of the page."""
    found = {}
    for family, content in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for name, options in content["rows"].items():
            fields: dict[str, Any] = {"metrics": content["metrics"], "stages": [name], **options}
            fields["stages"] = tuple(fields["stages"])
            found[name] = Row(name=name, family=family, **fields)
    return found
