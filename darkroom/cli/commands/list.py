"""``darkroom list``: methods, datasets, callbacks and configs, as aligned columns or as JSON."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkroom.cli.catalog import classes, plugins
from darkroom.cli.catalog import configs as read_configs
from darkroom.paths import shipped_configs

WIDTH = 100  # of a line


@dataclass(frozen=True)
class Experiment:
    """Config that pairs a method with a dataset, with what its head says was measured."""

    method: str
    family: str
    config: str
    result: str


def experiments(heads: dict[str, str], folder: Path) -> list[Experiment]:
    """Return the configs of the families, by family and method.

    Args:
        heads: first line of every config, by its path ("configs/segmentation/unet.yaml").
        folder: of the configs.
    """
    found = []
    for path, head in heads.items():
        inside = Path(path).relative_to("configs")
        if len(inside.parts) != 2:  # configs/FAMILY/NAME.yaml
            continue
        text = (folder / inside).read_text(encoding="utf-8")
        method = re.search(r"^model:\n  class_path: (\S+)", text, re.MULTILINE)  # parsing YAML takes a second
        if method and re.search(r"^data:", text, re.MULTILINE):
            found.append(Experiment(method[1], inside.parts[0], path, _result_of(head)))
    return sorted(found, key=lambda one: (one.family, one.method))


def _result_of(head: str) -> str:
    """Return the first measured value of a head: "test mIoU 0.939" of "U-Net: test mIoU 0.939 in 2 min"."""
    value = re.search(r": ([^:]*?\d[\d.]*(?:%| dB| nats)?(?: match the \w+)?)(?:[,;]| in | \(|$)", head)
    return value[1] if value and "not measured" not in value[1] else ""


def contents(folder: Path) -> dict[str, Any]:
    """Return all sections of the list.

    Args:
        folder: of the configs.
    """
    heads = read_configs(folder)
    found = experiments(heads, folder)
    others = {path: head for path, head in heads.items() if path not in {one.config for one in found}}
    return {
        "experiments": [asdict(one) for one in found],
        "methods": classes("lightning_modules", "Technique"),
        "datasets": classes("datamodules", "VisionDataModule"),
        "callbacks": classes("callbacks", "Callback"),
        "configs": others,
        "plugins": {point.name: point.value for point in plugins()},
    }


def _print_columns(title: str, rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    print(title)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line if len(line) <= WIDTH else f"{line[: WIDTH - 1].rstrip()}…")
    print()


def print_list(found: dict[str, Any]) -> None:
    """Print the sections of the list, each with the option that takes its names."""
    head = ("METHOD", "FAMILY", "CONFIG", "RESULT ON ITS DATASET")
    rows = [(one["method"], one["family"], Path(one["config"]).stem, one["result"]) for one in found["experiments"]]
    _print_columns("Experiments (--config configs/FAMILY/CONFIG.yaml)", [head, *rows])
    for title, section in {
        "Methods (--model)": "methods",
        "Datasets (--data)": "datasets",
        "Callbacks (--trainer.callbacks+)": "callbacks",
        "Other configs (--config; sweeps: wandb sweep)": "configs",
        "From other packages": "plugins",
    }.items():
        _print_columns(title, list(found[section].items()))


def main(argv: list[str]) -> int:
    """Run ``darkroom list``; return the exit code."""
    parser = argparse.ArgumentParser(prog="darkroom list", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    found = contents(shipped_configs())
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print_list(found)
    return 0
