"""Arguments of constructors: groups of options, choices, and the arguments that checkpoints save."""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pydoc import locate
from types import FrameType
from typing import Any, TypeVar, get_args

from lightning import LightningModule
from lightning.pytorch.utilities.parsing import collect_init_args

from darkroom.errors import UsageError
from darkroom.runtime.lightning_compat import hyperparameters_are_given

Options = TypeVar("Options")
Choice = TypeVar("Choice", bound=str)


def build_options(kind: type[Options], value: Options | Mapping[str, Any] | None) -> Options:
    """Return a group of options: the given one, one built of a checkpoint's plain values, or the defaults for None.

    Args:
        kind: dataclass of the group.
        value: a ``kind``, its fields by name, or None.
    """
    if value is None:
        return kind()
    return kind(**value) if isinstance(value, Mapping) else value


def declared_names(kind: object, name: str) -> tuple[str, ...]:
    """Return the names that a class and its bases declare in class attributes called ``name``."""
    bases = kind.__mro__ if isinstance(kind, type) else ()
    return tuple(declared for base in bases for declared in vars(base).get(name, ()))


def without_initial_weights(arguments: Any) -> Any:
    """Return saved arguments without the sources of initial weights of nested classes, which a checkpoint replaces.

    Args:
        arguments: plain values, in which a nested class is a mapping of ``class_path`` and ``init_args``.
    """
    if not isinstance(arguments, Mapping):
        return arguments
    kept = {name: without_initial_weights(value) for name, value in arguments.items()}
    if isinstance(kept.get("class_path"), str) and isinstance(kept.get("init_args"), dict):
        sources = declared_names(locate(kept["class_path"]), "initial_weight_arguments")
        kept["init_args"] |= {name: None for name in sources if name in kept["init_args"]}
    return kept


def check_choice(key: str, value: Choice, choices: Any) -> Choice:
    """Return a value that must be one of a Literal's choices; the command line checks that by itself, Python does not.

    Args:
        key: names the setting, such as ``model.loss``.
        value: to be checked.
        choices: a ``Literal``.

    Raises:
        UsageError: the value is not one of the choices.
    """
    if value not in get_args(choices):
        raise UsageError(f"{key} must be one of {', '.join(get_args(choices))}, got {value!r}")
    return value


def save_arguments(module: LightningModule, frame: FrameType | None, leave_out: Sequence[str] = ()) -> None:
    """Save the constructor's arguments as ``hparams``, as far as they are plain values.

    From the command line every argument is plain (class_path and init_args). In Python some are objects; those must be
    passed to ``load_from_checkpoint`` again.

    Args:
        module: being constructed.
        frame: of its outermost base's constructor.
        leave_out: names of arguments that are not saved.
    """
    assert frame is not None
    # Of all constructors on the way, outermost last.
    constructors = collect_init_args(frame, [], classes=(LightningModule,))[::-1]
    arguments = ChainMap(*constructors)
    if hyperparameters_are_given():  # by the command line, which has the class paths
        module.save_hyperparameters(frame=frame, ignore=leave_out)
        return
    options = {
        name: asdict(value) for name, value in arguments.items() if is_dataclass(value) and not isinstance(value, type)
    }
    # Values that a constructor sets for its base are left out: the class does not take them.
    objects = [name for name, value in arguments.items() if not is_plain(value) or name not in constructors[0]]
    module.save_hyperparameters(ignore=[*objects, *leave_out], frame=frame)
    kept = {name: value for name, value in options.items() if is_plain(value) and name not in leave_out}
    module.hparams.update(kept)


def is_plain(value: Any) -> bool:
    """Return whether a value is None, a number, a string, or a tuple, list or dict of such: safe in a checkpoint."""
    if isinstance(value, dict):
        return all(is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return isinstance(value, bool | int | float | str | None)
