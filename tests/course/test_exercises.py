"""Exercises of the course: every checker accepts the answer, and refuses the start file, wrong versions and a crash."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.__main__ import main
from darkroom.course.exercise import Exercise
from darkroom.course.judge import judge, load_file
from darkroom.course.lessons import TITLES, exercises_of, start_file
from darkroom.errors import UsageError

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
    return callable(value) and getattr(value, "__module__", "").startswith("learner_")


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


@each
def test_losses_need_gradients(number: int, exercise: Exercise) -> None:
    """A result with the right values is refused without its gradient, which the docstring of the start file asks for."""
    text = " ".join(getattr(load_file(start_file(number)), exercise.name).__doc__.split())
    if not exercise.differentiable:
        assert "differentiable" not in text
        return
    promise = text[text.index("differentiable with") :]
    assert all(name in promise for name in exercise.differentiable)
    message = judge(exercise, lambda *inputs: exercise.reference(*inputs).detach(), Path("lesson.py")).message
    assert "the value is right, but it has no gradient with respect to " in message


def test_wrong_gradient_is_refused() -> None:
    """Half of the KL is cut from the graph: the value is right, and training would ignore the mean."""
    [exercise] = [one for one in exercises_of(9) if one.name == "kl_to_standard_normal"]
    message = judge(exercise, lambda mean, *rest: exercise.reference(mean.detach(), *rest), Path("lesson.py")).message
    assert message.startswith("the value is right, but its gradient with respect to 'mean' is not: there the result is")


def test_penalty_without_graph_has_a_hint() -> None:
    """The classic fault of R1: without create_graph the penalty is a constant for the discriminator."""
    [exercise] = [one for one in exercises_of(10) if one.name == "gradient_penalty"]

    def penalty(discriminator: Callable, images: torch.Tensor) -> torch.Tensor:
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(images).sum(), images)
        return gradient.square().sum((1, 2, 3)).mean()

    message = judge(exercise, penalty, Path("lesson.py")).message
    assert message.startswith("the gradient is a constant for autograd")
    assert "no gradient with respect to 'discriminator'" in message


def test_every_rule_for_the_nearest_pixel_passes() -> None:
    """PyTorch has two: ``nearest`` takes the upper left of 2 x 2 pixels, ``nearest-exact`` the lower right."""
    [exercise] = [one for one in exercises_of(7) if one.name == "resize_mask"]
    for mode in ("nearest", "nearest-exact"):

        def resize(mask: torch.Tensor, *size: int, mode: str = mode) -> torch.Tensor:
            return torch.nn.functional.interpolate(mask[None, None].float(), size, mode=mode)[0, 0].long()

        for seed in range(3):
            assert judge(exercise, resize, Path("lesson.py"), seed).message == ""


def test_mean_iou_has_a_class_that_is_only_predicted() -> None:
    """A mean over the classes of the truth alone is another number: its denominator must be checked."""
    for seed in range(10):
        cases = next(one for one in exercises_of(5) if one.name == "mean_iou").cases(seed)
        assert any(((one["confusion"].sum(1) == 0) & (one["confusion"].sum(0) > 0)).any() for one in cases)
        for one in next(one for one in exercises_of(5) if one.name == "evaluate").cases(seed)[2:]:
            truth, predicted = (torch.cat(one[name]).unique() for name in ("truths", "predictions"))
            assert set(predicted.tolist()) - set(truth.tolist()) == {3}


def test_printed_command_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my lessons").mkdir()
    assert main(["check", "lesson", "9", "--start", "my lessons/nine.py"]) == 0
    command = capsys.readouterr().out.split("`")[1]
    assert shlex.split(command) == ["darkroom", "check", "lesson", "9", "my lessons/nine.py"]


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
        ("import sys; sys.exit()", "SystemExit, line 2 (`import sys; sys.exit()`): the code ends Python"),
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


@pytest.mark.parametrize("code", ["import sys\nsys.exit()", "raise SystemExit(0)"])
def test_file_that_ends_python_is_no_pass(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lesson_09.py").write_text(code)
    assert main(["check", "lesson", "9"]) == 2
    assert "SystemExit: the code ends Python" in capsys.readouterr().err


def test_endless_loops_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that catches every Exception, and one outside of the functions."""
    monkeypatch.setattr("darkroom.course.judge.SECONDS", 0.05)
    loop = "while True:\n{0}    try:\n{0}        sum(range(100))\n{0}    except Exception:\n{0}        pass\n"
    path = Path("learner.py")
    path.write_text("def add(x):\n    " + loop.format("    "))
    assert "did not return within 0.05 s, line " in judge(ADD, load_file(path).add, path).message
    path.write_text(loop.format(""))
    with pytest.raises(UsageError, match=r"learner.py, line \d .*: the import takes more than 0.05 s"):
        load_file(path)


def test_file_with_a_dataclass_is_loaded() -> None:
    """Dataclasses look up their module by name if annotations are strings; a name such as torch replaces no module."""
    path = Path("torch.py")
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Box:\n    side: int\n"
    )
    assert load_file(path).Box(3).side == 3
    assert sys.modules["torch"] is torch


def test_missing_function_is_named() -> None:
    assert "must begin with `def add(`" in judge(ADD, None, Path("learner.py")).message
