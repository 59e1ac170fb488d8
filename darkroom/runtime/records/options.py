"""Options of a config by their full keys."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as _Loader  # five times as fast; absent from some builds of PyYAML
except ImportError:
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]  # the same interface in Python


def load_yaml(path: Path) -> Any:
    """Load a YAML file.

    Raises:
        OSError, ValueError, yaml.YAMLError: it is missing or damaged.
    """
    return yaml.load(path.read_text(encoding="utf-8"), _Loader)


def flatten(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full key and the value of every option of a config; ``init_args`` is left out of the keys."""
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, prefix if key == "init_args" else f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
