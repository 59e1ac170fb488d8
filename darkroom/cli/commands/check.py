"""``darkroom check``: exercises of the course, compared with the right values on random inputs."""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

from darkroom.course.lessons import TITLES, exercises_of, file_name, require_lesson, start_file
from darkroom.errors import UsageError, UserError


def main(argv: list[str]) -> int:
    """Write the file of a lesson or check it; return the exit code: 0 if every function is right, 1 if one is not."""
    parser = argparse.ArgumentParser(
        "darkroom check",
        description="Check the exercises of a lesson: run your functions on random inputs, and report what is wrong.",
        epilog="lessons: " + "; ".join(f"{number} {title}" for number, title in TITLES.items()),
    )
    parser.add_argument("what", choices=["lesson"])
    parser.add_argument("number", type=int, metavar="N", help="number of the lesson")
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="your file; default: such as lesson_09.py")
    parser.add_argument(
        "--start", action="store_true", help="write the file, with functions to write and one to repair"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs; default: 0")
    options = parser.parse_intermixed_args(argv)  # FILE may stand after --start
    try:
        require_lesson(options.number)
        path = options.file or Path(file_name(options.number))
        return start(options.number, path) if options.start else check(options.number, path, options.seed)
    except UserError as error:
        print(f"darkroom: error: {error}", file=sys.stderr)
        return error.exit_code


def start(number: int, path: Path) -> int:
    """Write the learner's file of a lesson; return the exit code.

    Raises:
        UsageError: the file exists.
    """
    if path.exists():
        raise UsageError(f"{path} exists; move it away to start again, or name another file")
    shutil.copyfile(start_file(number), path)
    command = f"darkroom check lesson {number} {shlex.quote(str(path))}"
    print(f"{path}: write the functions, repair the last one, then run `{command}`")
    return 0


def check(number: int, path: Path, seed: int) -> int:
    """Print the verdict on each function of a learner's file; return the exit code."""
    from darkroom.course.judge import judge, load_file  # imports torch

    module, exercises = load_file(path), exercises_of(number)
    verdicts = [judge(exercise, getattr(module, exercise.name, None), path, seed) for exercise in exercises]
    print(f"lesson {number}: {TITLES[number]}, {path}")
    for exercise, verdict in zip(exercises, verdicts, strict=True):
        kind = " (to repair)" if exercise.repair else ""
        message = f": {verdict.message}".replace("\n", "\n      ") if verdict.message else ""
        print(f"{'pass' if verdict.passed else 'FAIL'}  {verdict.name}{kind}{message}")
    passed = sum(verdict.passed for verdict in verdicts)
    print(f"{passed} of {len(verdicts)} are right")
    return 0 if passed == len(verdicts) else 1
