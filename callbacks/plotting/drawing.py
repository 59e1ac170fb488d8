"""Drawing: the interface of every figure, and Plot, a figure with axes."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from darkroom.callbacks.plotting.images import save
from darkroom.callbacks.plotting.style import SCREEN, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg")  # the files of a figure


@runtime_checkable
class Drawing(Protocol):
    """A figure: an image for the screen, and a vector page with its text as text for print."""

    def raster(self) -> Tensor:
        """Return the figure as an image uint8 (3, H, W)."""

    def save(self, path: Path) -> None:
        """Write ``<path>.png``, ``<path>.pdf`` and ``<path>.svg``, and create their folder.

        The files are equal in every run: they have no date.

        Args:
            path: without suffix.
        """


class Plot:
    """A figure with axes.

    Args:
        figure: of matplotlib, made within ``style.styled``; its layout is final.
    """

    def __init__(self, figure: "Figure") -> None:
        self.figure = figure

    @cached_property
    def _image(self) -> Tensor:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.figure.set_dpi(SCREEN)
        with styled():
            canvas = FigureCanvasAgg(self.figure)
            canvas.draw()
        self.figure.set_layout_engine(None)  # the vector files take the places of this layout
        return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1)

    def raster(self) -> Tensor:
        """Return the figure as an image uint8 (3, H, W) of 144 pixels per inch."""
        return self._image

    def save(self, path: Path) -> None:
        """Write ``<path>.png``, ``<path>.pdf`` and ``<path>.svg``; see ``Drawing``."""
        save(self.raster(), Path(f"{path}.png"))
        with styled():
            self.figure.savefig(f"{path}.pdf", metadata={"CreationDate": None})
            self.figure.savefig(f"{path}.svg", metadata={"Date": None})
