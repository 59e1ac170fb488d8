"""Lessons of the course: they run, their outputs are those of their code, and their text follows the glossary."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.course.lessons import TITLES, exercises_of
from tests.language import find_banned

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs/build_hooks"))
from code_links import find_line, find_links  # noqa: E402 (hooks of mkdocs)
from lessons import lesson_files, make_notebook, number_of, read_cells, read_outputs, render_page  # noqa: E402

each = pytest.mark.parametrize("path", lesson_files(), ids=lambda path: path.stem)


def test_every_lesson_has_a_file_and_an_entry_in_the_navigation() -> None:
    assert [number_of(path) for path in lesson_files()] == list(TITLES)
    navigation, index = (ROOT / "mkdocs.yml").read_text(), (ROOT / "docs/course/index.md").read_text()
    for path in lesson_files():
        title = f"{number_of(path)} {TITLES[number_of(path)]}"
        assert f"- {title}: course/{path.stem}.md" in navigation
        assert f"[{title}]({path.stem}.md)" in index
        assert read_cells(path)[0].text.startswith(f"# Lesson {number_of(path)}: {TITLES[number_of(path)]}\n")


@each
def test_page_has_text_code_figure_and_exercises(path: Path) -> None:
    page = render_page(path)  # raises if the outputs are those of other code
    assert [word for _, word, _ in find_banned(page.split("## Exercises")[0])] == []
    assert page.count("](figures/") >= 1
    for exercise in exercises_of(number_of(path)):
        verb = "Repair" if exercise.repair else "Write"
        assert f"### {verb} `{exercise.name}`\n" in page
        assert f"\ndef {exercise.name}(" in page
    for link in find_links(page):
        assert find_line(*link) >= 1
    figures = [item["figure"] for items in read_outputs(path) for item in items if "figure" in item]
    assert all(Path(path.parent, "figures", figure).stat().st_size <= 60 * 1024 for figure in figures)


def test_every_figure_belongs_to_a_lesson() -> None:
    used = {
        item["figure"] for path in lesson_files() for items in read_outputs(path) for item in items if "figure" in item
    }
    assert {path.name for path in (ROOT / "docs/course/figures").iterdir()} == used


@each
def test_notebook_has_every_cell(path: Path) -> None:
    notebook = json.loads(json.dumps(make_notebook(path)))
    assert len(notebook["cells"]) == len(read_cells(path)) + 1
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert "<code:" not in json.dumps(notebook)


@pytest.mark.slow
@each
def test_lesson_runs_within_its_time(path: Path, tmp_path: Path) -> None:
    """Run it in a process of its own, as ``make course`` does; it raises if it takes too long."""
    code = f"from run_lessons import run_lesson; from pathlib import Path; run_lesson(Path({str(path)!r}), Path('.'))"
    environment = {"PYTHONPATH": str(ROOT / "docs/build_hooks"), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    run = json.loads((tmp_path / "outputs" / f"{path.stem}.json").read_text())
    assert [len(items) for items in run["cells"]] == [len(items) for items in read_outputs(path)]
