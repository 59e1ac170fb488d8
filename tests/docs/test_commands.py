"""Every command and every Python block of README and docs runs."""

import gc
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, read_blocks, run_page
from tests.fakes.commands import redirect_console

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = ("lightning_modules", "datamodules", "callbacks")  # folders of a reader's own classes
WITH_CODE = [
    page
    for page in PAGES
    if any(block.kind in ("bash", "console", "python") for block in read_blocks(page.read_text(encoding="utf-8")))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_runs(page: Path) -> None:
    """Run it in a process of its own: a fork, because a new process imports for ten seconds."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("forked processes")
    Path("configs").symlink_to(ROOT / "configs")  # readers type the commands in the root of the repository
    console = Path("console.txt").absolute()
    process = multiprocessing.get_context("fork").Process(target=run_alone, args=(page, console))
    process.start()
    process.join(900)
    process.kill()
    assert process.exitcode == 0, console.read_text()[-6000:]


def run_alone(page: Path, console: Path) -> None:
    """Run a page in this process, without classes of a user that other tests have imported."""
    gc.freeze()  # garbage of the parent is not collected here: threads that it may wait for are not in a fork
    redirect_console(console)
    os.environ["WANDB_MODE"] = "offline"
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]
    run_page(page)


def test_blocks_that_do_not_run_say_why() -> None:
    reasons = [block.not_run for page in PAGES for block in read_blocks(page.read_text(encoding="utf-8"))]
    assert all(len(reason) > 5 for reason in reasons if reason is not None)
