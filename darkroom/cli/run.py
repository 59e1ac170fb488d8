"""From a command line to its exit code: finds configs, runs the command, explains what went wrong."""

import sys
from contextlib import suppress
from pathlib import Path

from darkroom.cli import config_checks
from darkroom.cli.catalog import import_all
from darkroom.cli.cli import DarkroomCLI
from darkroom.cli.console import Parser, explain, quieten
from darkroom.cli.trainer_defaults import ConfigSaver
from darkroom.datamodules.base import VisionDataModule
from darkroom.errors import Stopped
from darkroom.lightning_modules.base import Technique
from darkroom.paths import shipped_configs
from darkroom.runtime.wandb_logger import finish_wandb
from darkroom.signals import die_with_parent


def with_configs(argv: list[str]) -> list[str]:
    """The command line, with what it leaves to be found: a shipped config by its name, a checkpoint's own config."""
    paths = ("--config=", "--ckpt_path=")
    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith(paths) else [word])]
    given = [index + 1 for index, argument in enumerate(argv[:-1]) if argument in ("-c", "--config")]
    for index in given:
        shipped = shipped_configs().parent / argv[index]
        if argv[index].startswith("configs/") and shipped.is_file() and not Path(argv[index]).exists():
            argv[index] = str(shipped)
        config_checks.readable_config(Path(argv[index]))
    if argv[0] != "fit" and not given and "--ckpt_path" in argv[:-1]:
        checkpoint = Path(argv[argv.index("--ckpt_path") + 1])
        if str(checkpoint) not in ("last", "best"):
            config_checks.require_checkpoint(checkpoint, str(checkpoint), Path("runs"))
        beside = checkpoint.parent.parent / "config.yaml"
        if checkpoint.parent.name == "checkpoints" and beside.is_file():
            argv[1:1] = ["--config", str(beside)]
    return argv


def run(argv: list[str]) -> int:
    """Runs one command line; returns its exit code."""
    die_with_parent()
    quieten()
    import_all()
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a user's own classes lie where the command is typed
    code = 1
    try:
        sys.argv[1:] = with_configs(argv)  # in sys.argv, because Lightning starts the other ranks with it
        DarkroomCLI(
            Technique,
            VisionDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=ConfigSaver,
            save_config_kwargs={"overwrite": True},
            parser_class=Parser,
        )
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except Exception as error:
        code = explain(error)
    finally:
        with suppress(Stopped):  # who does not want to wait for W&B
            finish_wandb(code)
    return code
