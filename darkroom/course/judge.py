"""Judgement of a learner's functions: load the file, run each function on random inputs, and describe what is wrong."""

import copy
import importlib.util
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from darkroom.course.difference import describe_difference
from darkroom.course.exercise import Exercise, Function, Inputs
from darkroom.errors import UsageError

_SECONDS = 20  # that a function may take for all of its inputs
_SHOWN = 12  # numbers of an input that a message shows


class TooSlow(Exception):
    """A function that takes too long."""


@dataclass(frozen=True)
class Verdict:
    """Result of an exercise.

    Args:
        name: of the function.
        message: sentences on what is wrong; empty if nothing is.
    """

    name: str
    message: str = ""

    @property
    def passed(self) -> bool:
        """True if nothing is wrong."""
        return not self.message


def load_file(path: Path) -> ModuleType:
    """Import a learner's file.

    Raises:
        UsageError: the file does not exist, or raises an error while it is imported; the message has its line.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist; `darkroom check lesson N --start` writes the file of lesson N")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} must be a Python file, with the suffix .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from error
    except Exception as error:
        raise UsageError(f"{path}{_place_of(error, path)}: {type(error).__name__}: {error}") from error
    return module


def judge(exercise: Exercise, function: Function | None, path: Path, seed: int = 0) -> Verdict:
    """Compare a learner's function with the reference.

    Args:
        exercise: what the function must compute.
        function: of the learner; None if the file has none of this name.
        path: of the learner's file, whose lines the message names.
        seed: of the inputs.
    """
    if not callable(function):
        return Verdict(
            exercise.name, f"the file has no function of this name; it must begin with `def {exercise.name}(`"
        )
    cases = exercise.cases(seed)
    try:
        with _limit(_SECONDS):
            message = _compare(exercise, function, cases)
    except NotImplementedError:
        message = "not written yet"
    except TooSlow:
        message = f"did not return within {_SECONDS} s; a loop may never end"
    except Exception as error:
        message = f"{type(error).__name__}{_place_of(error, path)}: {error}"
    return Verdict(exercise.name, message)


def _compare(exercise: Exercise, function: Function, cases: Sequence[Inputs]) -> str:
    for number, inputs in enumerate(cases, 1):
        right = exercise.reference(*_copy(inputs))
        arguments = _copy(inputs)
        result = function(*arguments)
        if result is None:
            return "not written yet: it returns None"
        difference = describe_difference(result, right, exercise.tolerance)
        if difference:
            hint = _find_hint(exercise, function, cases)
            where = f"  input {number} of {len(cases)}: {_describe(inputs)}"
            return "\n".join([hint, f"  {difference}", where] if hint else [difference, where])
        for (name, before), after in zip(inputs.items(), arguments, strict=True):
            if isinstance(before, Tensor) and not torch.equal(before, after):
                return f"the result is right, but the function changes its input {name!r}; compute a new tensor instead"
    return ""


def _find_hint(exercise: Exercise, function: Function, cases: Sequence[Inputs]) -> str:
    """Return the hint of the known mistake that returns the learner's values on all inputs; empty if there is none."""
    try:
        results = [function(*_copy(inputs)) for inputs in cases]
    except Exception:
        return ""
    for mistake in exercise.mistakes:
        wrong = (mistake.wrong(*_copy(inputs)) for inputs in cases)
        if all(
            describe_difference(result, one, exercise.tolerance) is None
            for result, one in zip(results, wrong, strict=True)
        ):
            return mistake.hint
    return ""


def _copy(inputs: Inputs) -> list[Any]:
    return [copy.deepcopy(value) for value in inputs.values()]


def _describe(inputs: Inputs) -> str:
    return ", ".join(f"{name} = {_format(value)}" for name, value in inputs.items())


def _format(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(one, Tensor) for one in value):
        return f"list of {len(value)} tensors"
    if not isinstance(value, Tensor):
        return f"{value:.4g}" if isinstance(value, float) else type(value).__name__ if callable(value) else repr(value)
    if value.numel() > _SHOWN:
        return f"tensor of shape {tuple(value.shape)}"
    return str([round(number, 3) for number in value.flatten().tolist()] if value.dim() == 1 else _rounded(value))


def _rounded(value: Tensor) -> Any:
    return (value.double() * 1000).round().div(1000).tolist() if value.is_floating_point() else value.tolist()


def _place_of(error: Exception, path: Path) -> str:
    """Return the last line of the learner's file that an error passed, with its text; empty if it passed none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == path.name]
    return f", line {frames[-1].lineno} (`{frames[-1].line}`)" if frames else ""


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise TooSlow after some seconds, in the main thread of a POSIX system; no limit elsewhere."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
