"""Run lessons and write their outputs to docs/course: ``python docs/build_hooks/run_lessons.py [NUMBER ...]``.

Each lesson runs in a process of its own, on one core. A figure is written as SVG or WebP, whichever is smaller.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from lessons import COURSE, digest, lesson_files, number_of, read_cells

MOST_SECONDS = 120  # of processor time that a lesson may take
MOST_BYTES = 60 * 1024  # of a figure


def run_lesson(path: Path, folder: Path) -> float:
    """Run a lesson, write its outputs below a folder, and return the processor time in seconds.

    Raises:
        RuntimeError: the lesson takes too long, or a figure is too large.
    """
    import torch

    from darkroom.course.notebook import collect

    torch.set_num_threads(1)
    start, cells = time.process_time(), []
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(read_cells(path)):
        if cell.is_text:
            continue
        printed = io.StringIO()
        with collect() as outputs, contextlib.redirect_stdout(printed):
            exec(compile(cell.text, f"{path.name}, cell {number}", "exec"), names)
        items = [{"text": printed.getvalue()}] if printed.getvalue() else []
        cells.append(items + [_save(output, folder) for output in outputs])
    seconds = time.process_time() - start
    if seconds > MOST_SECONDS:
        raise RuntimeError(f"{path.name} took {seconds:.0f} s of processor time, must take at most {MOST_SECONDS} s")
    target = folder / "outputs" / f"{path.stem}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"digest": digest(path), "cells": cells}, indent=1, ensure_ascii=False)
    target.write_text(text + "\n", encoding="utf-8")
    return seconds


def _save(output: Any, folder: Path) -> dict[str, str]:
    """Write the file of a figure; return the description of an output."""
    from darkroom.course.notebook import Source

    if isinstance(output, Source):
        return {"source": output.path, "name": output.name}
    from PIL import Image

    with tempfile.TemporaryDirectory() as temporary:
        stem = Path(temporary, output.name)
        output.drawing.save(stem)
        with Image.open(f"{stem}.png") as image:
            image.save(f"{stem}.webp", lossless=True, method=6)
            if Path(f"{stem}.webp").stat().st_size > MOST_BYTES:
                image.convert("RGB").save(f"{stem}.webp", quality=88, method=6)
        smallest = min((Path(f"{stem}{suffix}") for suffix in (".svg", ".webp")), key=lambda file: file.stat().st_size)
        if smallest.stat().st_size > MOST_BYTES:
            raise RuntimeError(f"{smallest.name} has {smallest.stat().st_size} bytes, must have at most {MOST_BYTES}")
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        (folder / "figures" / smallest.name).write_bytes(smallest.read_bytes())
    return {"figure": smallest.name, "alt": output.alt}


def main(arguments: list[str]) -> int:
    """Run the lessons of some numbers, all without one; return the exit code."""
    if arguments[:1] == ["--file"]:  # in a process of its own
        print(f"{run_lesson(Path(arguments[1]), COURSE):.1f}")
        return 0
    for path in lesson_files():
        if not arguments or str(number_of(path)) in arguments:
            done = subprocess.run([sys.executable, __file__, "--file", str(path)], stdout=subprocess.PIPE, text=True)
            if done.returncode:
                return done.returncode
            print(f"{path.name}: {done.stdout.split()[-1]} s of processor time", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
