"""Empty plots for tests of the pages around them; tests/callbacks/plotting and test_latex.py write real ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.callbacks.plotting.drawing import Plot


def save_quickly(plot: Plot, path: Path) -> None:
    """Write the files of a plot without drawing it, which takes half a second."""
    for suffix, content in ((".png", b""), (".svg", b"<svg><text>plot</text></svg>"), (".pdf", b"%PDF")):
        Path(f"{path}{suffix}").write_bytes(content)


@pytest.fixture(scope="module")
def quick_plots() -> Iterator[None]:
    """Save plots by ``save_quickly``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plot, "save", save_quickly)
        yield
