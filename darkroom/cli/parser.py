"""Argument parser with errors of one sentence and short help."""

import re
import sys
from argparse import Action
from collections.abc import Iterable, Iterator, Sequence
from pydoc import locate
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from lightning import LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from darkroom.cli.console import is_debugging
from darkroom.cli.usage_errors import BASES, shorten_error
from darkroom.errors import UsageError

_MOST_CLASSES = 12  # of an option's choices in its help


class ShortHelp(DefaultHelpFormatter):
    """Help without the list of all options at its top, and with Darkroom's own classes as the choices of an option.

    jsonargparse lists every subclass that is imported: hundreds for an option that takes any ``nn.Module``.
    """

    _family = ""

    def add_usage(self, usage: str | None, actions: Iterable[Action], *args: Any, **kwargs: Any) -> None:
        """Print one line, since the options follow with their descriptions."""
        super().add_usage(usage or f"{command_line()} [--config FILE ...] [--OPTION VALUE ...]", [], *args, **kwargs)

    def add_text(self, text: str | None) -> None:
        """Add the description, which names the class that is explained."""
        explained = re.search(r"=(darkroom\.lightning_modules\.\w+)\.", text or "")
        self._family = explained[1] if explained else self._family
        super().add_text(text)

    def _expand_help(self, action: Action) -> str:
        text, marker, found = super()._expand_help(action).partition(", known subclasses: ")
        if not marker:
            return text
        paths = [path.strip() for path in found.removesuffix(")").split(",")]
        names = _choices(paths, action.dest, self._family)
        shown = [*names[:_MOST_CLASSES], "..."] if len(names) > _MOST_CLASSES and action.dest not in BASES else names
        others = " or an import path" if len(shown) < len(paths) else ""
        return f"{text}, choices: {', '.join(shown)}{others})"


_ALWAYS_ON = ("darkroom.cli.", "darkroom.runtime.", "darkroom.callbacks.training.")  # not to be chosen

# Parts of the names of an option's classes, or of their files, beside the option's own name.
_KINDS = {"network": ("network", "unet"), "metrics": ("metric",)}


def _choices(paths: list[str], key: str, family: str) -> list[str]:
    """Return bare names of classes for an option: of many, those of Darkroom, of the family and of the option's kind.

    Args:
        paths: class paths of all subclasses of the option's type.
        key: option, such as model.loss.
        family: package of the model that has the option, or empty.
    """
    if key in BASES:  # all are imported, so the sources are not parsed again, which takes 0.5 s
        return [path.rpartition(".")[2] for path in sorted(paths, key=_module) if not _is_base(path)]
    paths = [path for path in paths if not path.startswith(_ALWAYS_ON)]
    if len(paths) > _MOST_CLASSES:
        own = [path for path in paths if path.startswith(family or "darkroom.") and not _is_method(path)]
        option = key.rpartition(".")[2]
        kind = [path for path in own if any(part in _file_and_name(path) for part in _KINDS.get(option, (option,)))]
        paths = kind or own or paths
    return [path.rpartition(".")[2] for path in paths]


def _module(path: str) -> str:
    return path.rpartition(".")[0]


def _is_base(path: str) -> bool:
    return (vars(locate(path)).get("__doc__") or "").startswith("Base of")  # not of its parent


def _is_method(path: str) -> bool:
    kind = locate(path)
    return isinstance(kind, type) and issubclass(kind, LightningModule)


def _file_and_name(path: str) -> str:
    kind = locate(path)
    file = kind.__module__.rpartition(".")[2] if isinstance(kind, type) else ""
    return f"{file} {path.rpartition('.')[2]}".lower()


def command_line() -> str:
    """Return the command as typed, without its options."""
    return f"darkroom {sys.argv[1]}" if len(sys.argv) > 1 else "darkroom"


class Parser(LightningArgumentParser):
    """Argument parser without abbreviations, whose errors do not include the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "formatter_class": ShortHelp, **kwargs})

    def parse_args(  # type: ignore[override]  # of the overloads of argparse, jsonargparse has one
        self, args: Sequence[str] | None = None, *others: Any, **kwargs: Any
    ) -> Namespace:
        """Parse arguments; those of a nested class are as jsonargparse writes them, with None for null."""
        if args is not None and not self.exit_on_error:
            args = [re.sub(r"=None$", "=null", arg) for arg in args]
        return super().parse_args(args, *others, **kwargs)

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Return a config as text. It was validated when it was parsed: doing so again takes 0.1 s."""
        return super().dump(*args, **{"skip_validation": True, **kwargs})

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Write a config into a file, without a second validation, as ``dump``."""
        super().save(*args, **{"skip_validation": True, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print an error in one sentence and exit with code 2."""
        if not self.exit_on_error:  # the parser of a nested class, whose error becomes a part of the outer one
            super().error(message, ex)
        if is_debugging():
            raise UsageError(message) from ex
        print(f"darkroom: error: {shorten_error(message, _option_names(self))}", file=sys.stderr)
        print(f"(options: {command_line()} --help, or --model.help CLASS and --data.help CLASS)", file=sys.stderr)
        sys.exit(2)


def _option_names(parser: ArgumentParser) -> Iterator[str]:
    """Yield the options of a parser and of its commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from _option_names(command)
