"""The door: help, version and list answer at once, without torch; the other commands open the Lightning command line."""

import importlib
import os
import sys

from darkroom import __version__
from darkroom.errors import Stopped
from darkroom.paths import shipped_configs
from darkroom.runtime import slurm
from darkroom.signals import handled_by, stop

HELP = """\
darkroom - develops pictures: every technique of deep learning for vision, trained by one command

usage: darkroom COMMAND [options]

  fit        train              darkroom fit --config configs/segmentation/unet.yaml
  validate   score on val       darkroom validate --ckpt_path runs/unet/0/checkpoints/best.ckpt
  test       score on test      darkroom test --ckpt_path runs/unet/0/checkpoints/best.ckpt
  predict    write predictions  darkroom predict --ckpt_path runs/unet/0/checkpoints/best.ckpt --data.predict_dir photos
  list       techniques, data sets and configs with what they promise
  proposals  make region proposals, print their recall   darkroom proposals --config configs/detection/fast_rcnn.yaml
  shards     write captioned data as WebDataset shards   darkroom shards --data CaptionFolder --folder shards

  --version, --help

Name a technique and its data         darkroom fit --model UNet --data ShapesSegmentation
Lay one config over another           --config configs/segmentation/unet.yaml --config configs/logger/wandb.yaml
See all options                       darkroom fit --help, darkroom fit --model.help UNet
See what a command line amounts to    darkroom fit --config ... --print_config
Continue the newest run               --ckpt_path last
Show a traceback with an error        DARKROOM_DEBUG=1
"""
COMMANDS = ("fit", "validate", "test", "predict")
OTHERS = ("list", "proposals", "shards")


def keep_freed_memory() -> None:
    """Keeps freed memory in the process and uses huge pages: 11-24% off a CPU training step. Must precede torch."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**30)
            libc.mallopt(-3, 2**30)


def main(argv: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code: 0, 1 (data or training), 2 (usage)."""
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if command == "--version":
        print(f"darkroom {__version__}")
        return 0
    if command == "list":
        from darkroom.cli.catalog import show

        show(shipped_configs())
        return 0
    if command in ("proposals", "shards"):
        return importlib.import_module(f"darkroom.cli.commands.{command}").main(argv[1:])
    if command not in COMMANDS:
        known = ", ".join(COMMANDS + OTHERS)
        print(f"darkroom: error: unknown command {command!r}; it must be one of {known}", file=sys.stderr)
        return 2
    keep_freed_memory()
    with handled_by(stop):
        code = _run(argv)
    if command == "fit":
        with handled_by(lambda signum, frame: None):  # whoever ends the job, it is to come back
            slurm.requeue(code)
    return code


def _run(argv: list[str]) -> int:
    try:
        from darkroom.cli.run import run  # takes seconds

        return run(argv)
    except Stopped as stopped:
        return int(stopped.code)


if __name__ == "__main__":
    sys.exit(main())
