"""Entry point. Help, version, list, runs, report, push and pull do not import torch; others start LightningCLI."""

import atexit
import gc
import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from darkroom import __version__
from darkroom.errors import Stopped
from darkroom.runtime import slurm
from darkroom.signals import handle_signals, stop

HELP = """\
darkroom - train every deep learning method for vision with one command

usage: darkroom COMMAND [options]

  fit        train              darkroom fit --config configs/segmentation/unet.yaml
  validate   score on val       darkroom validate --ckpt_path runs/unet/0/checkpoints/best.ckpt
  test       score on test      darkroom test --ckpt_path runs/unet/0/checkpoints/best.ckpt
  predict    write predictions  darkroom predict --ckpt_path runs/unet/0/checkpoints/best.ckpt --data.predict photos
  chain      fit configs in turn, each from the weights of the one before, and test the last
                                                darkroom chain PRETRAINING.yaml METHOD.yaml
  plan       memory, time and cost of a training      darkroom plan --config FILE --gpu h100 --devices 8
  export     write a model as ONNX   darkroom export --ckpt_path runs/unet/0/checkpoints/best.ckpt
  list       methods, data sets and configs with their results
  runs       runs with their results, newest first
  report     a page per run: mistakes, figures, curves      darkroom report runs/unet/0
  play       a page that runs a run's model in the browser  darkroom play runs/unet/0
  compare    runs in one table      darkroom compare runs/unet/0 runs/fcn/0
  push       upload a run to the Hugging Face hub    darkroom push runs/unet/0 OWNER/NAME
  pull       download one                            darkroom pull OWNER/NAME
  proposals  make region proposals, print their recall   darkroom proposals --config configs/detection/fast_rcnn.yaml
  shards     write captioned data as WebDataset shards   darkroom shards --data CaptionFolder --folder shards
  check      check the exercises of a lesson             darkroom check lesson 9 --start, then darkroom check lesson 9

  --version, --help

Name a method and its data            darkroom fit --model UNet --data ShapesSegmentation
Lay one config over another           --config configs/segmentation/unet.yaml --config configs/logger/wandb.yaml
See all options                       darkroom fit --help, darkroom fit --model.help UNet
Print the resulting config            darkroom fit --config ... --print_config
Resume the newest run                 --ckpt_path last
Show a traceback with an error        DARKROOM_DEBUG=1
"""
COMMANDS = ("fit", "validate", "test", "predict")
OTHERS = (
    "chain",
    "plan",
    "export",
    "list",
    "runs",
    "report",
    "play",
    "compare",
    "push",
    "pull",
    "proposals",
    "shards",
    "check",
)


def keep_freed_memory() -> None:
    """Keep freed memory in the process and use huge pages, before torch is imported: 11-24% off a CPU training step."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**30)
            libc.mallopt(-3, 2**30)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Context of large imports. Their objects stay, so they are not searched for garbage, neither here nor later."""
    enabled, started = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if started:  # by a command line; else there may be garbage of the caller, which would never be freed
            gc.freeze()
            atexit.unregister(gc.unfreeze)
            atexit.register(gc.unfreeze)  # some libraries report what is left at the end as leaks
        if enabled:
            gc.enable()


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code: 0, 1 (data or training), 2 (usage)."""
    try:
        code = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 0
    return code


def _dispatch(argv: list[str]) -> int:
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if command == "--version":
        print(f"darkroom {__version__}")
        return 0
    if command in OTHERS[1:]:
        with without_garbage_collection():
            own = importlib.import_module(f"darkroom.cli.commands.{command}")
        return own.main(argv[1:])
    if command not in (*COMMANDS, "chain"):
        known = ", ".join(COMMANDS + OTHERS)
        print(f"darkroom: error: unknown command {command!r}; it must be one of {known}", file=sys.stderr)
        return 2
    keep_freed_memory()
    with handle_signals(stop):
        code = _run(argv)
    if command in ("fit", "chain"):
        with handle_signals(lambda signum, frame: None):  # a signal must not interrupt the requeueing
            slurm.requeue(code)
    return code


def _run(argv: list[str]) -> int:
    try:
        if argv[0] == "chain":
            with without_garbage_collection():
                chain = importlib.import_module("darkroom.cli.chain")
            return chain.main(argv[1:])
        with without_garbage_collection():
            from darkroom.cli.run import run  # importing takes seconds

        return run(argv)
    except Stopped as stopped:
        return stopped.exit_code


def only_prints(argv: Sequence[str]) -> bool:
    """Return whether a command line asks for help or for its config only."""
    return any(re.fullmatch(r"-h|--help|--[\w.]+\.help(=.*)?|--print_config(=.*)?", word) for word in argv)


def run_process() -> NoReturn:
    """Run the command line of this process, and end the process."""
    code = main()
    if only_prints(sys.argv[1:]):
        sys.stderr.flush()
        os._exit(code)  # nothing is left to finish, and freeing all objects would take longer than the imports of torch
    sys.exit(code)


if __name__ == "__main__":
    run_process()
