"""Data section of a config, for commands that build a datamodule without a model."""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from darkroom.cli.config_checks import require_readable_config
from darkroom.paths import find_config
from darkroom.renames import update_config


def keep_data_section(argv: Sequence[str]) -> list[str]:
    """Replace the paths of configs on a command line by their data section as JSON, which the parser takes too.

    Args:
        argv: command line; configs are paths, or names of shipped configs.

    Raises:
        UsageError: a config does not exist or cannot be read.
    """
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    for index in [index + 1 for index, word in enumerate(words[:-1]) if word == "--config"]:
        words[index] = _data_section(words[index])
    return words


def _data_section(path: str) -> str:
    file = find_config(Path(path))
    require_readable_config(file)
    config = update_config(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    return json.dumps({"data": config["data"]} if "data" in config else {})
