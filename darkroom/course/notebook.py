"""Outputs of a lesson: figures, and the project's own code. They appear in Jupyter, in the site and on a console."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, MethodType
from typing import TypeAlias

from darkroom.callbacks.plotting.drawing import Drawing

FIGURES = Path("lesson_figures")  # of a lesson that runs as a script


@dataclass(frozen=True)
class Figure:
    """Figure of a lesson.

    Args:
        drawing: the figure.
        alt: describes it for a reader who does not see it.
        name: of its files, without suffix.
    """

    drawing: Drawing
    alt: str
    name: str


@dataclass(frozen=True)
class Source:
    """Code of the project.

    Args:
        path: of its file in the repository, such as lightning_modules/autoencoding/vae.py.
        name: of the function, method or class, with dots inwards.
        text: the code.
    """

    path: str
    name: str
    text: str


Output: TypeAlias = Figure | Source
_collectors: list[Callable[[Output], None]] = []


@contextmanager
def collect() -> Iterator[list[Output]]:
    """Collect outputs in a list, in order, and show none."""
    outputs: list[Output] = []
    _collectors.append(outputs.append)
    try:
        yield outputs
    finally:
        _collectors.pop()


def show(drawing: Drawing, name: str, alt: str) -> None:
    """Show a figure. A script writes it into the folder ``lesson_figures``.

    Args:
        drawing: from a function of ``darkroom.callbacks.plotting``.
        name: of its files, without suffix.
        alt: describes the figure for a reader who does not see it.
    """
    _emit(Figure(drawing, alt, name))


def show_source(*objects: FunctionType | MethodType | type) -> None:
    """Show the code of functions, methods or classes of the project, read from their files."""
    for found in objects:
        path = found.__module__.removeprefix("darkroom.").replace(".", "/") + ".py"
        in_package = path.split("/")[0] not in ("lightning_modules", "datamodules", "callbacks")
        text = inspect.cleandoc("\n" + inspect.getsource(found))
        _emit(Source(f"darkroom/{path}" if in_package else path, found.__qualname__, text))


def _emit(output: Output) -> None:
    if _collectors:
        _collectors[-1](output)
    elif isinstance(output, Source):
        _display_source(output)
    else:
        _display_figure(output)


def _in_jupyter() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def _display_source(source: Source) -> None:
    if _in_jupyter():
        from IPython.display import Markdown, display

        display(Markdown(f"`{source.path}`, `{source.name}`:\n\n```python\n{source.text}\n```"))
    else:
        print(f"# {source.path}, {source.name}\n{source.text}\n")


def _display_figure(figure: Figure) -> None:
    if _in_jupyter():
        from IPython.display import display
        from PIL import Image

        display(Image.fromarray(figure.drawing.raster().permute(1, 2, 0).numpy()))
    else:
        figure.drawing.save(FIGURES / figure.name)
        print(f"figure: {FIGURES / figure.name}.png")
