"""Folders of this installation and of its user."""

import os
from pathlib import Path


def shipped_configs() -> Path:
    """Return the folder of the configs that came with this copy, installed or checked out."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs"


def user_cache(kind: str) -> Path:
    """Return ``darkroom/<kind>`` in the user's cache folder: ``$XDG_CACHE_HOME``, or else ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkroom" / kind
