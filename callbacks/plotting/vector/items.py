"""Items of a page of images. Places and sizes are in pixels, from the left upper corner of the page.

Those of marks over an image are in pixels of the height and width at which the image is shown, from its left upper corner.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

Colour = tuple[int, int, int]
POINTS = 0.75  # points of a vector file per pixel
BASELINE = 0.346  # distance of the font's base line from the middle of a line, in sizes of the font
TINT = 0.4  # opacity of a mask inside of its outline
EDGE: Colour = (150, 150, 150)  # of a swatch


class Region(NamedTuple):
    """Pixels of a mask bool (H, W) of any size, tinted, with an outline of ``line`` pixels inside of it."""

    mask: Tensor
    colour: Colour
    line: int


class Border(NamedTuple):
    """Inner border, of ``line`` pixels, of a rectangle with these first and last pixels.

    ``dash`` is the length of a dash in pixels, 0 for a solid line.
    """

    left: int
    top: int
    right: int
    bottom: int
    colour: Colour
    line: int
    dash: int


class Tag(NamedTuple):
    """Rectangle of a colour, with a text of a font's ``size`` in ``ink``; ``right`` and ``bottom`` are its ends."""

    left: int
    top: int
    right: int
    bottom: int
    colour: Colour
    text: str
    size: int
    ink: Colour

    @property
    def words(self) -> "Words":
        """The text and its place."""
        return Words(self.text, self.left + 3, (self.top + self.bottom) / 2, "l", self.size, self.ink)


Mark: TypeAlias = Region | Border | Tag


class Marked(NamedTuple):
    """Image uint8 (3, H, W) with marks, the later ones on top, to be shown at a height and a width."""

    image: Tensor
    marks: Sequence[Mark]
    size: tuple[int, int]


class Tile(NamedTuple):
    """Image uint8 (3, H, W) of any size, shown at a place with a height and a width.

    ``marks`` are over the image; their places refer to a height and a width, ``size``.
    """

    image: Tensor
    x: int
    y: int
    height: int
    width: int
    marks: Sequence[Mark] = ()
    size: tuple[int, int] = (1, 1)


class Words(NamedTuple):
    """Line of text. Its left end, middle or right end (``anchor``: l, m or r) is at x, and its middle at y."""

    text: str
    x: float
    y: float
    anchor: Literal["l", "m", "r"]
    size: int
    colour: Colour


class Swatch(NamedTuple):
    """Square of a colour, in a legend."""

    colour: Colour
    x: float
    y: float
    side: float = 14
