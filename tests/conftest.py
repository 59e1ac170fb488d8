"""Run every test in an empty folder, on $OMP_NUM_THREADS threads (1 if unset), without login and network.

torch and lightning are imported where they are used, because the xdist controller needs neither.
"""

import atexit
import gc
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

CONFIGS = Path(__file__).parents[1] / "configs"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """Error message: the text from "darkroom: error:" on."""
        assert "Traceback" not in self.err
        return self.err[self.err.index("darkroom: error:") :]


def pytest_collection() -> None:
    """Exclude modules imported during test collection from garbage collection."""
    gc.disable()


def pytest_collection_finish() -> None:
    if torch := sys.modules.get("torch"):
        # The first backward pass of a process decides whether autograd has threads. After a fake tensor it would start some
        # for a GPU that is not there, and tests could fork no ranks any more.
        torch.ones((), requires_grad=True).backward()
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 10, 10)  # with Python's 700 it takes 5% of the time
    atexit.register(gc.unfreeze)  # libraries report what is left at the end of the process as leaks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("fault"):
            item.user_properties.append(("fault", marker.args[0]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the report of ``make faults``: faults, attempts and survived attempts."""
    if config.option.markexpr not in ("fault", "fault or cluster"):
        return
    faults: dict[str, Counter] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, what in getattr(report, "user_properties", ()):
                if name == "fault":
                    faults.setdefault(what, Counter())[outcome] += 1
    terminalreporter.section("faults")
    lost = sum(counts["failed"] + counts["error"] for counts in faults.values())
    for what, counts in sorted(faults.items()):
        not_tried = f", {counts['skipped']} not tried here" if counts["skipped"] else ""
        terminalreporter.line(
            f"{counts['passed']:4d} of {counts.total() - counts['skipped']} survived  {what}{not_tried}"
        )
    tried = sum(counts.total() - counts["skipped"] for counts in faults.values())
    terminalreporter.line(f"{len(faults)} kinds of faults, {tried} tries, {lost} lost")


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Restore the environment and stop the processes that rank launchers and W&B leave behind."""
    before = dict(os.environ)
    yield
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()  # of a test that failed, or that Lightning left
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _alone(_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning  # noqa: F401 (before any test captures the console that its log handlers write to)
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "DARKROOM_DEBUG", "XDG_CACHE_HOME"):
        # set first, so that what the program sets itself is undone after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    torch.manual_seed(0)


@pytest.fixture
def darkroom(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a command line in this process, in the test's folder: ``darkroom("fit", "--config", ...)``.

    The classifier of caption metrics is barely trained, because its training takes minutes.
    """
    from torch import distributed

    from darkroom.__main__ import main
    from darkroom.lightning_modules.metrics import attribute_judge

    monkeypatch.setattr(attribute_judge, "_SEEN", 400)
    monkeypatch.setattr(attribute_judge, "_HELD_OUT", 100)

    def call(*argv: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["darkroom"])
        capfd.readouterr()
        code = main([str(arg) for arg in argv])
        if distributed.is_initialized():
            distributed.destroy_process_group()  # DDP's, of one process; Lightning leaves it to the process's end
        return Outcome(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def _finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished") / "runs"


@pytest.fixture
def tiny_run(darkroom: Callable[..., Outcome], tiny: list[str], _finished_runs: Path) -> Path:
    """Run folder of a finished fit of ``tiny``, copied from one fit per process."""
    if not _finished_runs.exists():
        assert darkroom("fit", *tiny).code == 0
        shutil.copytree("runs", _finished_runs, symlinks=True)
    else:
        shutil.copytree(_finished_runs, "runs", symlinks=True)
    return Path("runs/tiny/0")


@pytest.fixture
def tiny() -> list[str]:
    """Arguments of a U-Net on Shapes that trains in a second: two steps, one validation."""
    return [
        *("--config", str(CONFIGS / "segmentation/unet.yaml"), "--experiment", "tiny", "--model.base_channels", "4"),
        *("--data.train_size", "8", "--data.val_size", "4", "--data.test_size", "4", "--data.batch_size", "4"),
        *(
            "--data.side",
            "32",
            "--data.num_workers",
            "0",
            "--trainer.max_epochs",
            "1",
            "--trainer.log_every_n_steps",
            "1",
        ),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--trainer.num_sanity_val_steps", "0", "--trainer.accelerator", "cpu"),
    ]
