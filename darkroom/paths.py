"""Folders of this installation and of its user."""

import os
import warnings
from pathlib import Path

DISTRIBUTION = "darkroom-vision"  # `darkroom` on the package index is another project


def shipped_configs() -> Path:
    """Return the folder of the configs that came with this copy, installed or checked out."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs"


def find_config(path: Path) -> Path:
    """Return the path of a config: the given file, or the shipped one of that name; unchanged if neither exists.

    Args:
        path: as typed. Paths of the previous version, such as ``configs/paper/NAME.yaml``, are found in the folders into
            which the configs moved.
    """
    if path.exists() or path.parts[:1] != ("configs",):
        return path
    shipped = shipped_configs().joinpath(*path.parts[1:])
    if shipped.is_file():
        return shipped
    for moved in sorted(shipped.parent.glob(f"*/{path.name}")):
        today = Path("configs", moved.relative_to(shipped_configs())).as_posix()
        warnings.warn(f"{path} is now {today}; the old path works for one more version", FutureWarning, stacklevel=2)
        return moved
    return path


def user_cache(kind: str) -> Path:
    """Return ``darkroom/<kind>`` in the user's cache folder: ``$XDG_CACHE_HOME``, or else ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkroom" / kind


def install_command(extra: str) -> str:
    """Return the command that adds an optional extra to this installation.

    Args:
        extra: name in ``[project.optional-dependencies]``.
    """
    root = Path(__file__).parents[1]
    if (root / "pyproject.toml").is_file():  # a clone
        return f"pip install -e '{'.' if root == Path.cwd() else root}[{extra}]'"
    return f"pip install '{DISTRIBUTION}[{extra}]'"
