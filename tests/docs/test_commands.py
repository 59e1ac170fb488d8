"""Every command and every Python block of README and docs runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, read_blocks

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [
    page
    for page in PAGES
    if any(block.kind in ("bash", "console", "python") for block in read_blocks(page.read_text(encoding="utf-8")))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_runs(page: Path) -> None:
    Path("configs").symlink_to(ROOT / "configs")  # readers type the commands in the root of the repository
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "tests.docs.pages", str(page)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_blocks_that_do_not_run_say_why() -> None:
    reasons = [block.not_run for page in PAGES for block in read_blocks(page.read_text(encoding="utf-8"))]
    assert all(len(reason) > 5 for reason in reasons if reason is not None)
