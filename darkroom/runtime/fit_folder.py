"""Paths in the config of a run, which are relative to the folder where its fit was started."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

# Options that name a file or folder relative to the working folder. The others, such as data.images_dir, are names in root.
PATH_OPTIONS = frozenset(
    {
        *("root", "predict", "folder", "cache_dir"),
        *("pretrained", "init_from", "inception_weights", "base", "super_resolutions", "members"),
    }
)


def resolved_options(config: Path) -> list[str]:
    """Return options that replace the relative paths in the config of a run by those in the folder of its fit.

    The list is empty if the fit was started in the working folder, or if the file is not the config of a run. Paths that
    do not exist in the folder of the fit stay as they are.

    Args:
        config: ``config.yaml``, such as ``elsewhere/runs/unet/0/config.yaml``; its fit was started in ``elsewhere``.
    """
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    folder = _folder_of_fit(config, content)
    if folder is None or folder.resolve() == Path.cwd():
        return []
    found = [(key.replace(".init_args", ""), value) for key, value in _existing_paths(content, folder.resolve())]
    return [
        word for key, value in found for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]


def absolute_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a config that are paths in the working folder, as absolute paths by their full keys."""
    return dict(_existing_paths(config, Path.cwd()))


def _folder_of_fit(config: Path, content: Any) -> Path | None:
    """Return the folder in which the fit of a config was started; None if its position does not determine it."""
    if not isinstance(content, dict) or not {"runs_dir", "experiment"} <= content.keys():
        return None
    place = Path(str(content["runs_dir"]), str(content["experiment"]))
    run = config.absolute().parent
    if place.is_absolute() or run.parent.parts[-len(place.parts) :] != place.parts or ".." in place.parts:
        return None
    return run.parents[len(place.parts)]


def _existing_paths(section: Mapping[str, Any], folder: Path, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield full key and absolute value of every path option in the sections ``data`` and ``model``."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            if prefix or key in ("data", "model"):
                yield from _existing_paths(value, folder, f"{prefix}{key}.")
        elif prefix and key in PATH_OPTIONS:
            paths = value if isinstance(value, list) else [value]
            if paths and all(isinstance(path, str) and (folder / path).exists() for path in paths):
                resolved = [str(folder / path) for path in paths]
                yield f"{prefix}{key}", resolved if isinstance(value, list) else resolved[0]
