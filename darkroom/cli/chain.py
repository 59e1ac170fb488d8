"""``darkroom chain``: fit configs one after another, each from the weights of the one before, and test the last one."""

import argparse
import gc
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import distributed

from darkroom.cli.building.stage_check import check_stages
from darkroom.cli.console import explain
from darkroom.cli.run import run
from darkroom.errors import UsageError
from darkroom.runtime import slurm
from darkroom.runtime.lightning_compat import process_rank
from darkroom.runtime.run_folder import find_checkpoint, list_runs

RECORD = "stage.json"  # in the run folder of a stage

_OWN_OPTIONS = ("--experiment", "--runs_dir", "--test_ckpt", "--ckpt_path")
_HELP = """\
usage: darkroom chain STAGE [STAGE ...] [--experiment NAME] [--test_ckpt best|last] [options of darkroom fit]

  STAGE          config of a stage, or in quotes a config with options of this stage: "FILE --data.crops objects".
                 Each stage after the first starts from best.ckpt of the stage before (model.init_from)
  --experiment   folder in runs_dir; default: the names of the configs. Stage 1 of NAME is in runs/NAME/1-CONFIG/0
  --test_ckpt    checkpoint of the last stage that is tested; default: best
  other options  go to every stage, such as --config configs/trainer/bf16.yaml or --seed_everything 1;
                 --model.init_from goes to the first stage alone

The same command again skips finished stages and resumes the stage that was stopped.
"""


@dataclass(frozen=True)
class Record:
    """Progress of a stage, as ``stage.json`` in its run folder.

    Args:
        finished: True if the fit has ended by itself.
        fit_seconds: processor time of the fit with all its restarts, without that of a start that was killed.
        test_seconds: processor time of the test.
        parameters: number of weights, without averages.
    """

    finished: bool = False
    fit_seconds: float = 0.0
    test_seconds: float | None = None
    parameters: int = 0

    @classmethod
    def read(cls, run_folder: Path) -> "Record":
        """Read the record of a run; an empty one if there is none."""
        path = run_folder / RECORD
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls()

    def write(self, run_folder: Path) -> None:
        """Write the record of a run, on the first rank and if the run folder exists."""
        if process_rank() == 0 and run_folder.is_dir():
            (run_folder / RECORD).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Stage:
    """One config of a chain.

    Args:
        config: the file.
        options: of this stage alone.
        experiment: folder of its runs, in ``runs_dir``.
        runs_dir: folder of the experiments.
    """

    config: str
    options: tuple[str, ...]
    experiment: str
    runs_dir: str

    @property
    def folder(self) -> Path:
        """Newest run of the stage; that of the first one before it begins."""
        found = list_runs(Path(self.runs_dir, self.experiment))
        return found[-1] if found else Path(self.runs_dir, self.experiment, "0")

    @property
    def record(self) -> Record:
        """Progress of the newest run."""
        return Record.read(self.folder)

    def checkpoint(self, name: str = "best") -> str:
        """Return the path of a checkpoint: the last one if the fit had no validation, the future one before the fit."""
        found = find_checkpoint(self.folder, name) or find_checkpoint(self.folder, "last")
        return found or str(self.folder / "checkpoints" / f"{name}.ckpt")

    def require_checkpoint(self) -> None:
        """Raise a UsageError if the fit has saved no checkpoint."""
        if not Path(self.checkpoint()).is_file():
            raise UsageError(
                f"{self.folder} has no checkpoint, which the next command of the chain needs; leave out "
                "trainer.fast_dev_run and trainer.enable_checkpointing false"
            )


@dataclass(frozen=True)
class Chain:
    """Command line of a chain.

    Args:
        stages: in order.
        options: options of every stage.
        test_ckpt: checkpoint of the last stage that is tested, best or last.
    """

    stages: tuple[Stage, ...]
    options: tuple[str, ...]
    test_ckpt: str = "best"

    def fit_arguments(self, index: int) -> list[str]:
        """Return the command line of the fit of a stage, from the start."""
        stage = self.stages[index]
        words = ["fit", "--config", stage.config, *self.options, *stage.options]
        words += ["--experiment", stage.experiment, "--runs_dir", stage.runs_dir]
        return words + (["--model.init_from", self.stages[index - 1].checkpoint()] if index else [])

    def title(self, index: int) -> str:
        """Return number and config of a stage."""
        return f"stage {index + 1} of {len(self.stages)}, {self.stages[index].config}"


def parse(argv: Sequence[str]) -> Chain:
    """Parse the command line: stages up to the first option, then options.

    Raises:
        UsageError: no stage, or an option that the chain sets itself.
    """
    count = next((index for index, word in enumerate(argv) if word.startswith("-")), len(argv))
    if not any(word.strip() for word in argv[:count]):
        raise UsageError("darkroom chain needs the config of a stage first: darkroom chain STAGE [STAGE ...] [options]")
    parser = argparse.ArgumentParser(prog="darkroom chain", add_help=False, allow_abbrev=False)
    for option in _OWN_OPTIONS:
        parser.add_argument(option)
    parser.add_argument("--config", "-c", action="append", default=[])
    known, _ = parser.parse_known_args(argv[count:])
    if known.ckpt_path not in (None, "last"):
        raise UsageError(
            f"ckpt_path {known.ckpt_path}: darkroom chain always resumes from last.ckpt of the stage that was stopped; "
            "leave it out, or start the first stage from a file with --model.init_from"
        )
    if known.test_ckpt not in (None, "best", "last"):
        raise UsageError(f"test_ckpt must be best or last, got {known.test_ckpt}")
    overlays = [Path(path) for path in known.config]
    shown = [path.stem for path in overlays if path.parent.name not in ("trainer", "logger")]
    stages = [[word] if Path(word).is_file() else shlex.split(word) for word in argv[:count]]
    names = [Path(words[0]).stem for words in stages]
    experiment, runs_dir = known.experiment or "-".join(names + shown), known.runs_dir or "runs"
    return Chain(
        stages=tuple(
            Stage(config, tuple(options), f"{experiment}/{number}-{name}", runs_dir)
            for number, (name, (config, *options)) in enumerate(zip(names, stages, strict=True), 1)
        ),
        options=tuple(_without(argv[count:], _OWN_OPTIONS)),
        test_ckpt=known.test_ckpt or "best",
    )


def _without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return a command line without some options and their values."""
    left, following = [], False
    for word in words:
        name, assigned, _ = word.partition("=")
        if name in options:
            following = not assigned
        elif following:
            following = False
        else:
            left.append(word)
    return left


@rank_zero_only
def _report(message: str) -> None:
    print(f"darkroom: {message}", file=sys.stderr)


def run_chain(chain: Chain) -> int:
    """Check all stages, fit those that are not finished, and test the last one; return the exit code.

    Raises:
        UsageError: a stage is invalid, or differs from its run.
    """
    _require_order(chain)
    parameters = check_stages(
        [(chain.title(index), chain.fit_arguments(index), stage.folder) for index, stage in enumerate(chain.stages)]
    )
    # Before any fit, because the ranks of a job read these files at different times.
    finished = [stage.record.finished for stage in chain.stages]
    for index, stage in enumerate(chain.stages):
        if finished[index]:
            _report(f"{chain.title(index)}: finished in {stage.folder}")
            continue
        _report(f"{chain.title(index)}: runs in {stage.folder.parent}")
        resumes = ["--ckpt_path", "last"] if list_runs(stage.folder.parent) else []
        code, seconds = _run_alone(chain.fit_arguments(index) + resumes, index)
        record = replace(stage.record, finished=code == 0, parameters=parameters[index])
        replace(record, fit_seconds=record.fit_seconds + seconds).write(stage.folder)
        if code:
            _report(f"{chain.title(index)}: ended with exit code {code}")
            return code
        stage.require_checkpoint()
    last = chain.stages[-1]
    code, seconds = _run_alone(["test", "--ckpt_path", last.checkpoint(chain.test_ckpt)], len(chain.stages))
    if code == 0:
        replace(last.record, test_seconds=seconds).write(last.folder)
    return code


def _require_order(chain: Chain) -> None:
    """Raise a UsageError if a stage has a run, but one before it is not finished."""
    for before, stage in zip(chain.stages, chain.stages[1:], strict=False):
        if not before.record.finished and stage.folder.is_dir():
            raise UsageError(
                f"{stage.folder} exists, but {before.folder}, whose weights it starts from, is not finished; remove it or "
                "choose another --experiment"
            )


def _run_alone(argv: list[str], number: int) -> tuple[int, float]:
    """Run a command as if it were alone in its process; return its exit code and its processor time in seconds.

    All commands run in this process, so that every signal of a terminal or a scheduler arrives once, where it is handled.

    Args:
        argv: the command line.
        number: how many commands of the chain came before.
    """
    environment, start = dict(os.environ), sum(os.times()[:4])
    _separate_ports(number)
    try:
        code = run(argv)
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()  # Lightning leaves it to the end of the process
        os.environ.clear()
        os.environ.update(environment)
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return code, sum(os.times()[:4]) - start


def _separate_ports(number: int) -> None:
    """Let the ranks that torchrun or srun started meet at another port than for the command before, which may be open."""
    first = os.environ.get("MASTER_PORT") or slurm.default_port()
    if number and first:
        os.environ["MASTER_PORT"] = str(int(first) + number)
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # torchrun's own store is at the first port


def main(argv: Sequence[str]) -> int:
    """Run ``darkroom chain``; return its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    try:
        return run_chain(parse(argv))
    except SystemExit as ended:
        return int(ended.code or 0)
    except Exception as error:
        return explain(error)
