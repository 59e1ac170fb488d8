"""Drawing: the interface of every figure, and Plot, a figure with axes."""

import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union, runtime_checkable

import numpy as np

from darkroom.callbacks.plotting.style import SCREEN, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

Numbers: TypeAlias = Union["Tensor", np.ndarray, Sequence[float]]

SUFFIXES = (".png", ".pdf", ".svg")  # the files of a figure


@runtime_checkable
class Drawing(Protocol):
    """A figure: an image for the screen, and a vector page with its text as text for print."""

    def raster(self) -> "Tensor":
        """Return the figure as an image uint8 (3, H, W)."""

    def save(self, path: Path) -> None:
        """Write ``<path>.png``, ``<path>.pdf`` and ``<path>.svg``, and create their folder.

        The files are equal in every run: they have no date.

        Args:
            path: without suffix.
        """


def to_array(values: Numbers) -> np.ndarray:
    """Return numbers as a float64 array, also those of a tensor on any device."""
    torch = sys.modules.get("torch")  # if it is not imported, nothing is a tensor
    if torch is not None and isinstance(values, torch.Tensor):
        values = values.detach().cpu().double()
    return np.asarray(values, dtype=np.float64)


class Plot:
    """A figure with axes.

    Args:
        figure: of matplotlib, made within ``style.styled``; its layout is final.
    """

    def __init__(self, figure: "Figure") -> None:
        self.figure = figure

    @cached_property
    def _image(self) -> np.ndarray:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.figure.set_dpi(SCREEN)
        with styled():
            canvas = FigureCanvasAgg(self.figure)
            canvas.draw()
        self.figure.set_layout_engine(None)  # the vector files take the places of this layout
        return np.array(canvas.buffer_rgba())[..., :3]

    def raster(self) -> "Tensor":
        """Return the figure as an image uint8 (3, H, W) of 144 pixels per inch."""
        import torch  # imported here, since `darkroom report` does not need it

        return torch.from_numpy(self._image).permute(2, 0, 1)

    def save(self, path: Path) -> None:
        """Write ``<path>.png``, ``<path>.pdf`` and ``<path>.svg``; see ``Drawing``."""
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self._image).save(f"{path}.png")
        with styled():
            self.figure.savefig(f"{path}.pdf", metadata={"CreationDate": None})
            self.figure.savefig(f"{path}.svg", metadata={"Date": None})
