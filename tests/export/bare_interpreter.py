"""An interpreter that finds a few packages and no other, for code that runs without Darkroom."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path


def run_bare(script: Path, packages: Sequence[str], folder: Path) -> str:
    """Run a script in a process whose packages are these, and return what it prints.

    Args:
        script: in Python.
        packages: names of their folders, such as numpy; a folder of shared libraries beside one is found too.
        folder: of links to the packages, which is made.
    """
    folder.mkdir()
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    site = Path(spec.origin).parents[1]
    for name in packages:
        for path in (site / name, site / f"{name.lower()}.libs"):
            if path.exists():
                (folder / path.name).symlink_to(path)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-S", str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
