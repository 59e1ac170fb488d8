"""Judgement of a learner's functions: load the file, run each function on random inputs, and describe what is wrong."""

import importlib.util
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from darkroom.course.difference import describe_difference
from darkroom.course.exercise import Exercise, Function, Inputs, copy_inputs
from darkroom.course.gradients import compute_gradients, describe_gradients
from darkroom.errors import UsageError

SECONDS = 20  # that a file may take to import, and a function for all of its inputs
_SHOWN = 12  # numbers of an input that a message shows
Same: TypeAlias = Callable[[Exercise, Function, Function, Inputs], bool]


class TooSlow(BaseException):
    """Code that takes too long. It stands outside of ``Exception``, which the learner's code may catch."""


# What a learner's code may raise. SystemExit stands outside of Exception; uncaught, it would end the check with code 0.
_FAULTS = (Exception, SystemExit)


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
        UsageError: the file does not exist, raises an error while it is imported, ends Python or takes too long; the
            message has its line.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist; `darkroom check lesson N --start` writes the file of lesson N")
    name = f"learner_{path.stem}"  # with a prefix, so that a file such as torch.py replaces no module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} must be a Python file, with the suffix .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks up its annotations there
    try:
        with _limit(SECONDS):
            spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from error
    except TooSlow as error:
        raise UsageError(
            f"{path}{_place_of(error, path)}: the import takes more than {SECONDS} s; only functions may take time"
        ) from error
    except _FAULTS as error:
        raise UsageError(f"{path}{_place_of(error, path)}: {type(error).__name__}: {_text_of(error)}") from error
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
        with _limit(SECONDS):
            message = _compare(exercise, function, cases)
    except NotImplementedError:
        message = "not written yet"
    except TooSlow as error:
        message = f"did not return within {SECONDS} s{_place_of(error, path)}; a loop may never end"
    except _FAULTS as error:
        message = f"{type(error).__name__}{_place_of(error, path)}: {_text_of(error)}"
    return Verdict(exercise.name, message)


def _compare(exercise: Exercise, function: Function, cases: Sequence[Inputs]) -> str:
    for number, inputs in enumerate(cases, 1):
        arguments = copy_inputs(inputs)
        result = function(*arguments.values())
        if result is None:
            return "not written yet: it returns None"
        right = exercise.reference(*copy_inputs(inputs).values())
        if difference := describe_difference(result, right, exercise.tolerance):
            return _explain(exercise, cases, number, difference, _find_hint(exercise, function, cases, _same_values))
        for name, before in inputs.items():
            if isinstance(before, Tensor) and not torch.equal(before, arguments[name]):
                return f"the result is right, but the function changes its input {name!r}; compute a new tensor instead"
    if not exercise.differentiable:
        return ""
    for number, inputs in enumerate(cases, 1):
        found, expected = (compute_gradients(exercise, one, inputs) for one in (function, exercise.reference))
        if difference := describe_gradients(found, expected or {}, exercise.tolerance):
            hint = _find_hint(exercise, function, cases, _same_gradients)
            return _explain(exercise, cases, number, difference, hint)
    return ""


def _explain(exercise: Exercise, cases: Sequence[Inputs], number: int, difference: str, hint: str) -> str:
    where = f"  input {number} of {len(cases)}: {_describe(cases[number - 1])}"
    return "\n".join([hint, f"  {difference}", where] if hint else [difference, where])


def _find_hint(exercise: Exercise, function: Function, cases: Sequence[Inputs], same: Same) -> str:
    """Return the hint of the known mistake that does the same as the function on all inputs; empty if there is none."""
    try:
        for mistake in exercise.mistakes:
            if all(same(exercise, function, mistake.wrong, inputs) for inputs in cases):
                return mistake.hint
    except (*_FAULTS, TooSlow):  # the learner's function fails on a later input
        pass
    return ""


def _same_values(exercise: Exercise, function: Function, other: Function, inputs: Inputs) -> bool:
    result, right = (one(*copy_inputs(inputs).values()) for one in (function, other))
    return describe_difference(result, right, exercise.tolerance) is None


def _same_gradients(exercise: Exercise, function: Function, other: Function, inputs: Inputs) -> bool:
    if not _same_values(exercise, function, other, inputs):
        return False
    found, right = (compute_gradients(exercise, one, inputs) for one in (function, other))
    return found is None if right is None else describe_gradients(found, right, exercise.tolerance) is None


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


def _place_of(error: BaseException, path: Path) -> str:
    """Return the last line of the learner's file that an error passed, with its text; empty if it passed none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == path.name]
    return f", line {frames[-1].lineno} (`{frames[-1].line}`)" if frames else ""


def _text_of(error: BaseException) -> str:
    return "the code ends Python; a function must return its result" if isinstance(error, SystemExit) else str(error)


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow after some seconds, in the main thread of a POSIX system; no limit elsewhere."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
