"""Exercises of the course: every checker accepts the answer, and refuses the start file, wrong versions and a crash."""

from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.__main__ import main
from darkroom.course.exercise import Exercise
from darkroom.course.judge import judge, load_file
from darkroom.course.lessons import TITLES, exercises_of, start_file

ROOT = Path(__file__).parents[2]
ANSWERS = ROOT / "docs/course/answers"
ALL = [(number, exercise) for number in TITLES for exercise in exercises_of(number)]
each = pytest.mark.parametrize(("number", "exercise"), ALL, ids=[f"{number}-{one.name}" for number, one in ALL])


def test_every_lesson_has_three_exercises_and_one_repair() -> None:
    for number in TITLES:
        exercises = exercises_of(number)
        assert [exercise.repair for exercise in exercises] == [False, False, False, True]
        names = [exercise.name for exercise in exercises]
        functions = [name for name, value in vars(load_file(start_file(number))).items() if defined_there(value)]
        assert functions == names, f"lesson {number}: the file has its functions in another order"


def defined_there(value: Any) -> bool:
    return callable(value) and getattr(value, "__module__", "").startswith("lesson_")


@each
def test_answer_passes(number: int, exercise: Exercise) -> None:
    path = ANSWERS / f"lesson_{number:02}.py"
    function = getattr(load_file(path), exercise.name)
    for seed in (0, 1):
        assert judge(exercise, function, path, seed).message == ""


@each
def test_start_file_fails(number: int, exercise: Exercise) -> None:
    path = start_file(number)
    verdict = judge(exercise, getattr(load_file(path), exercise.name), path)
    assert not verdict.passed
    if exercise.repair:
        assert exercise.mistakes, "the planted fault needs a hint"
        assert verdict.message.startswith(exercise.mistakes[0].hint)
    else:
        assert verdict.message == "not written yet"


@each
def test_known_mistakes_fail_with_their_hint(number: int, exercise: Exercise) -> None:
    for mistake in exercise.mistakes:
        message = judge(exercise, mistake.wrong, Path("lesson.py")).message
        assert message.startswith(mistake.hint)
        assert len(message.splitlines()) == 3


@each
def test_inputs_are_equal_in_every_run(number: int, exercise: Exercise) -> None:
    first, second = exercise.cases(), exercise.cases()
    for one, other in zip(first, second, strict=True):
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other[name])


def test_commands_write_a_file_and_check_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "lesson", "9", "--start"]) == 0
    assert main(["check", "lesson", "9"]) == 1
    assert "0 of 4 are right" in capsys.readouterr().out
    assert main(["check", "lesson", "9", "--start"]) == 2  # the learner's work is not overwritten
    assert "exists" in capsys.readouterr().err
    assert main(["check", "lesson", "9", str(ANSWERS / "lesson_09.py")]) == 0
    assert main(["check", "lesson", "99"]) == 2
    assert "lesson must be one of" in capsys.readouterr().err


ADD = Exercise("add", lambda x: x + torch.arange(3.0), lambda generator: [{"x": torch.rand(3, generator=generator)}])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("...", "not written yet: it returns None"),
        ("raise NotImplementedError", "not written yet"),
        ("return x[5]", "IndexError, line 2 (`return x[5]`): index 5 is out of bounds"),
        ("return -(x + torch.arange(3.0))", "the result has the wrong sign everywhere"),
        ("return (x + torch.arange(3.0))[None]", "the result has shape (1, 3), must have (3,): they differ in"),
        ("return (x + torch.arange(3.0)).sum()", "the result has shape (), must have (3,): a sum or mean"),
        ("return x + torch.arange(3.0) + 1", "every value is too large by 1"),
        ("return 2 * (x + torch.arange(3.0))", "every value is 2 times the right one"),
        ("return (x + torch.arange(3.0)).roll(1)", "along dimension 0 each value stands one place too late"),
        ("return (x + torch.arange(3.0)).flip(0)", "along dimension 0 the values are in reverse order"),
        ("return (x + torch.arange(3.0)) / 0", "the result is not finite at [0]"),
        ("return x + torch.arange(3.0) * torch.tensor([1, 1, 2])", "at [2], too large by 2; 1 of 3 values are wrong"),
        ("x += torch.arange(3.0)\n    return x", "the result is right, but the function changes its input 'x'"),
        ("return 'text'", "the result is a str, must be a tensor of shape (3,)"),
    ],
)
def test_messages_say_what_is_wrong(code: str, message: str) -> None:
    path = Path("learner.py")
    path.write_text(f"def add(x):\n    {code}\nimport torch\n")
    assert message in judge(ADD, load_file(path).add, path).message


def test_file_that_cannot_be_imported_is_reported_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("lesson_09.py").write_text("import torch\nx = 1 +\n")
    assert main(["check", "lesson", "9"]) == 2
    assert "line 2" in capsys.readouterr().err
    Path("lesson_09.py").write_text("import torch\nx = missing\n")
    assert main(["check", "lesson", "9"]) == 2
    assert "line 2 (`x = missing`): NameError" in capsys.readouterr().err


def test_missing_function_is_named() -> None:
    assert "must begin with `def add(`" in judge(ADD, None, Path("learner.py")).message
