"""Items of a page of images. Places and sizes are in pixels, from the left upper corner of the page."""

from typing import Literal, NamedTuple

from torch import Tensor

Colour = tuple[int, int, int]
POINTS = 0.75  # points of a vector file per pixel
BASELINE = 0.346  # distance of the font's base line from the middle of a line, in sizes of the font
EDGE: Colour = (150, 150, 150)  # of a swatch


class Tile(NamedTuple):
    """Image uint8 (3, H, W) of any size, shown at a place with a height and a width."""

    image: Tensor
    x: int
    y: int
    height: int
    width: int


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
