"""Modules of the page, run by Node."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from darkroom.play.bundle import bundle

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no Node here; it runs the scripts of pages without a browser")


def evaluate(module: str, body: str, data: Any = None) -> Any:
    """Return what a function body returns, by way of JSON.

    Args:
        module: of the page, whose names and whose imports' names the body may use.
        body: of an asynchronous function of ``data``.
        data: for the body.
    """
    assert NODE is not None
    call = f"(async (data) => {{{body}}})({json.dumps(data)})"
    script = f"{bundle(module)}\n{call}.then((value) => process.stdout.write(JSON.stringify(value)));"
    done = subprocess.run([NODE, "-"], input=script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
