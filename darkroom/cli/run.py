"""Run a command line: find its configs, run the command, print errors, return the exit code."""

import re
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import get_loader, set_loader
from lightning_utilities.core.enums import StrEnum

from darkroom.cli import checkpoint_checks, config_checks
from darkroom.cli.catalog import import_all, import_users
from darkroom.cli.cli import DarkroomCLI
from darkroom.cli.console import explain, filter_warnings
from darkroom.cli.exported_files import exported_arguments, is_exported
from darkroom.cli.options.trainer_defaults import ConfigSaver
from darkroom.cli.parser import Parser
from darkroom.datamodules.base import VisionDataModule
from darkroom.errors import Stopped, UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.paths import find_config
from darkroom.renames import update_arguments, update_config
from darkroom.runtime.fit_folder import resolved_options
from darkroom.runtime.run_folder import find_newest_checkpoint
from darkroom.runtime.wandb_logger import finish_wandb
from darkroom.signals import die_with_parent

_load_yaml = get_loader("yaml")
# Defaults of Lightning's callbacks, such as Timer's interval, are enums that YAML cannot write by itself.
yaml.SafeDumper.add_multi_representer(StrEnum, lambda dumper, value: dumper.represent_str(str(value.value)))


def load_config(text: str) -> Any:
    """Load YAML, a whole config or one value, and rename classes and keys of the previous version."""
    return update_config(_load_yaml(text))


def complete_arguments(argv: list[str]) -> list[str]:
    """Complete a command line: paths of shipped configs, the config of a checkpoint, current names for old ones."""
    paths = ("--config=", "--ckpt_path=")
    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith(paths) else [word])]
    given = [index + 1 for index, argument in enumerate(argv[:-1]) if argument in ("-c", "--config")]
    for index in given:
        argv[index] = str(find_config(Path(argv[index])))
        config_checks.require_readable_config(Path(argv[index]))
    if is_exported(_value_of("--ckpt_path", argv)):
        place = argv.index("--ckpt_path")
        before, after = exported_arguments(Path(argv[place + 1]), bool(given))
        argv[place : place + 2] = []
        argv = [argv[0], *before, *argv[1:], *after]
    elif argv[0] != "fit" and not given and "--ckpt_path" in argv[:-1]:
        checkpoint = Path(_value_of("--ckpt_path", argv))
        if str(checkpoint) in ("last", "best"):
            checkpoint = _checkpoint_of_experiment(argv)
        checkpoint_checks.require_checkpoint(checkpoint, str(checkpoint), Path("runs"))
        beside = checkpoint.parent.parent / "config.yaml"
        if checkpoint.parent.name == "checkpoints" and beside.is_file():
            argv[1:1] = ["--config", str(beside)]
    given = [index + 1 for index, argument in enumerate(argv[:-1]) if argument in ("-c", "--config")]
    classes = _configured_classes([Path(argv[index]) for index in given])
    for index in reversed(given):  # from the last, because the options are inserted after their config
        argv[index + 1 : index + 1] = resolved_options(Path(argv[index]))
    return update_arguments(argv, classes)


def _value_of(option: str, argv: list[str], default: str = "") -> str:
    """Return the last value of an option on a command line."""
    values = [word for before, word in pairwise(argv) if before == option]
    return values[-1] if values else default


def _checkpoint_of_experiment(argv: list[str]) -> Path:
    """Return the file that ``--ckpt_path last`` or ``best`` stands for on a command line without a config.

    Raises:
        UsageError: the command line does not name the experiment, or that has no such checkpoint.
    """
    name, experiment = _value_of("--ckpt_path", argv), _value_of("--experiment", argv)
    if not experiment:
        raise UsageError(
            f"ckpt_path {name} must come with the --config of the fit, or with its --experiment; or give the file, "
            f"runs/EXPERIMENT/NUMBER/checkpoints/{name}.ckpt"
        )
    folder = Path(_value_of("--runs_dir", argv, "runs"), experiment)
    found = find_newest_checkpoint(folder, name)
    checkpoint_checks.require_checkpoint(found, name, folder)
    return Path(str(found))


def _configured_classes(configs: list[Path]) -> dict[str, str]:
    """Return the class paths of model and data in configs; the last one wins."""
    found: dict[str, str] = {}
    for config in configs:
        for section, content in yaml.safe_load(config.read_text(encoding="utf-8")).items():
            if isinstance(content, dict) and isinstance(content.get("class_path"), str):
                found[section] = content["class_path"]
    return found


def import_named_classes(argv: list[str]) -> None:
    """Import the user's own classes that a command line or its configs name, so that their bare names are known."""
    configs = [Path(argv[index + 1]) for index, word in enumerate(argv[:-1]) if word in ("-c", "--config")]
    texts = argv + [path.read_text(encoding="utf-8") for path in configs]
    import_users(set(re.findall(r"\w+", " ".join(texts))))


CLI = TypeVar("CLI", bound=DarkroomCLI)


def execute(argv: list[str], kind: type[CLI]) -> CLI:
    """Parse one command line, build its objects and run its command.

    Args:
        argv: the command and its options.
        kind: class of the command line.

    Raises:
        SystemExit: the parser has printed an error, or the help.
    """
    filter_warnings()
    set_loader("yaml", load_config, (yaml.YAMLError,))
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # the user's own classes are in the working directory
    import_all()
    sys.argv[1:] = complete_arguments(argv)  # in sys.argv, because Lightning starts the other ranks with it
    import_named_classes(sys.argv[1:])
    return kind(
        Technique,
        VisionDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,  # every method configures its own, from model.optim
        save_config_callback=ConfigSaver,
        save_config_kwargs={"overwrite": True},
        parser_class=Parser,
    )


def run(argv: list[str]) -> int:
    """Run one command line; return its exit code."""
    die_with_parent()
    code = 1
    try:
        execute(argv, DarkroomCLI)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except Exception as error:
        code = explain(error)
    finally:
        with suppress(Stopped):  # a signal while W&B uploads
            finish_wandb(code)
    return code
