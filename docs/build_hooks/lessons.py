"""Make a page of every lesson: docs/course/NN_NAME.py, a Python file with cells, and the outputs of its last run.

A cell begins with a line ``# %%``, a cell of text with ``# %% [markdown]``; editors and Jupytext know this format. The site
is built without running a lesson: ``make course`` runs all of them and writes their outputs to docs/course/outputs. Code of
the project is not among them: it is read from its file when the site is built.
"""

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
COURSE = ROOT / "docs/course"
_CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?[^\n]*\n", re.MULTILINE)


class StaleOutputs(ValueError):
    """A lesson that has changed since its outputs were written."""


class Cell(NamedTuple):
    """Cell of a lesson.

    Args:
        is_text: True for Markdown.
        text: Markdown or code.
    """

    is_text: bool
    text: str

    @property
    def is_source(self) -> bool:
        """True if the code only shows code of the project."""
        return not self.is_text and self.text.startswith("show_source(") and self.text.count("\nshow") == 0


def lesson_files() -> list[Path]:
    """Return the files of all lessons in order."""
    return sorted(COURSE.glob("[0-9][0-9]_*.py"))


def number_of(path: Path) -> int:
    """Return the number of a lesson."""
    return int(path.name[:2])


def read_cells(path: Path) -> list[Cell]:
    """Read the cells of a lesson."""
    parts = _CELL.split(path.read_text(encoding="utf-8"))[1:]
    cells = []
    for kind, body in zip(parts[::2], parts[1::2], strict=True):
        lines = [re.sub(r"^# ?", "", line) for line in body.splitlines()] if kind else body.splitlines()
        cells.append(Cell(bool(kind), "\n".join(lines).strip("\n")))
    return cells


def digest(path: Path) -> str:
    """Return a checksum of the code of a lesson, without its text, comments and format."""
    code = "\n".join(cell.text for cell in read_cells(path) if not cell.is_text)
    return hashlib.sha256(ast.unparse(ast.parse(code)).encode()).hexdigest()[:16]


def read_outputs(path: Path) -> list[list[dict[str, str]]]:
    """Return the outputs of each cell of code.

    Raises:
        StaleOutputs: the code is not that of the outputs.
    """
    file = COURSE / "outputs" / f"{path.stem}.json"
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"digest": None}
    if saved["digest"] != digest(path):
        raise StaleOutputs(
            f"{path.name} has changed; run `make course ONLY={number_of(path)}`, which writes its outputs"
        )
    return saved["cells"]


def _fence(kind: str, text: str) -> str:
    return f"````{kind}\n{text}\n````"


def _definitions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and code of each function of a file."""
    source = path.read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, ast.get_source_segment(source, node) or ""


def source_of(path: str, name: str) -> str:
    """Return the code of a definition of the project, from its file."""
    source = (ROOT / path).read_text(encoding="utf-8")
    scope: ast.AST = ast.parse(source)
    for part in name.split("."):
        kinds = ast.FunctionDef | ast.ClassDef
        scope = next(node for node in ast.iter_child_nodes(scope) if isinstance(node, kinds) and node.name == part)
    text = ast.get_source_segment(source, scope, padded=True) or ""
    indent = len(text) - len(text.lstrip())
    return "\n".join(line[indent:] for line in text.splitlines())


def exercises_section(number: int) -> str:
    """Return the section with the functions that a learner writes, as Markdown."""
    functions = list(_definitions(ROOT / f"darkroom/course/start/lesson_{number:02}.py"))
    steps = (
        f"The first command writes `lesson_{number:02}.py` into the current folder. Write its functions, repair the last "
        "one, and run the second command as often as you like. It runs your functions on random inputs and reports "
        "what is wrong."
    )
    commands = f"darkroom check lesson {number} --start\ndarkroom check lesson {number}"
    parts = ["## Exercises", _fence("bash", commands), steps]
    parts += [f"### Write `{name}`\n\n{_fence('python', text)}" for name, text in functions[:-1]]
    name, broken = functions[-1]
    parts.append(f"### Repair `{name}`\n\nThis version runs, and is wrong.\n\n{_fence('python', broken)}")
    return "\n\n".join(parts)


def _opening(path: Path) -> str:
    number = number_of(path)
    return (
        f"[Download `{path.name}`]({path.name}), or open it as a notebook in a clone of the repository: "
        f"`make lesson N={number}`."
    )


def _render_output(item: dict[str, str]) -> str:
    if "figure" in item:
        return f"![{item['alt']}](figures/{item['figure']})"
    if "source" in item:
        path, name = item["source"], item["name"]
        return f"[`{name}`](<code:{path}#{name}>) in `{path}`\n\n{_fence('python', source_of(path, name))}"
    return _fence("text", item["text"].rstrip())


def render_page(path: Path) -> str:
    """Return the page of a lesson as Markdown."""
    outputs = iter(read_outputs(path))
    parts: list[str] = []
    for cell in read_cells(path):
        if cell.is_text:
            parts.append(cell.text)
            continue
        parts += [] if cell.is_source else [_fence("python", cell.text)]
        parts += [_render_output(item) for item in next(outputs)]
    heading, rest = parts[0].split("\n", 1)
    return "\n\n".join([heading, _opening(path), rest, *parts[1:], exercises_section(number_of(path))]) + "\n"


def make_notebook(path: Path) -> dict[str, Any]:
    """Return a lesson as a notebook of Jupyter, format 4.5, with its text and figures as outputs."""
    cells, outputs = [], iter(read_outputs(path))
    texts = [*read_cells(path), Cell(True, exercises_section(number_of(path)))]
    for index, cell in enumerate(texts):
        text = re.sub(r"\[([^\]]+)\]\(<code:[^>]+>\)", r"\1", cell.text) if cell.is_text else cell.text
        lines: dict[str, Any] = {"id": f"cell-{index}", "metadata": {}, "source": text}
        if cell.is_text:
            cells.append({"cell_type": "markdown", **lines})
        else:
            shown = [made for item in next(outputs) for made in _notebook_output(item)]
            cells.append({"cell_type": "code", "execution_count": None, "outputs": shown, **lines})
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def _notebook_output(item: dict[str, str]) -> Iterator[dict[str, Any]]:
    if "text" in item:
        yield {"output_type": "stream", "name": "stdout", "text": item["text"]}
    elif "source" in item:
        text = f"`{item['source']}`, `{item['name']}`:\n\n{_fence('python', source_of(item['source'], item['name']))}"
        yield {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": text}}
    elif item["figure"].endswith(".svg"):
        text = (COURSE / "figures" / item["figure"]).read_text(encoding="utf-8")
        yield {"output_type": "display_data", "metadata": {}, "data": {"image/svg+xml": text}}
    else:
        import base64
        import io

        from PIL import Image

        png = io.BytesIO()
        Image.open(COURSE / "figures" / item["figure"]).save(png, "PNG")
        data = {"image/png": base64.b64encode(png.getvalue()).decode()}
        yield {"output_type": "display_data", "metadata": {}, "data": data}


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add a page of every lesson."""
    from mkdocs.structure.files import File

    for path in lesson_files():
        files.append(File.generated(config, f"course/{path.stem}.md", content=render_page(path)))
    return files


def main(arguments: list[str]) -> None:
    """Write the notebook of a lesson: ``python docs/build_hooks/lessons.py NUMBER FOLDER``."""
    path = next(path for path in lesson_files() if number_of(path) == int(arguments[0]))
    target = Path(arguments[1], f"{path.stem}.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(make_notebook(path), indent=1), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main(sys.argv[1:])
