"""ImagePage: images with text around them, as an image for the screen and as a vector page that embeds them."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from darkroom.callbacks.plotting.images import INK, PAPER, resize, save
from darkroom.callbacks.plotting.style import FAMILY, load_font, styled

if TYPE_CHECKING:
    from matplotlib.artist import Artist

Colour = tuple[int, int, int]
_POINTS = 0.75  # points of a vector page per pixel of the image
_BASELINE = 0.346  # distance of the font's base line from the middle of a line, in sizes of the font
_EDGE = (150, 150, 150)
_ANCHORS = {"l": "start", "m": "middle", "r": "end"}


class Tile(NamedTuple):
    """Image uint8 (3, H, W) of any size, shown at a place and size of the page, in pixels."""

    image: Tensor
    x: int
    y: int
    height: int
    width: int


class Words(NamedTuple):
    """Line of text: its left end, middle or right end (``anchor``) is at x, its middle at y; ``size`` is in pixels."""

    text: str
    x: float
    y: float
    anchor: Literal["l", "m", "r"] = "l"
    size: int = 11
    colour: Colour = INK


class Swatch(NamedTuple):
    """Square of a colour in a legend, with its left upper corner and side in pixels."""

    colour: Colour
    x: float
    y: float
    side: float = 14


@dataclass
class ImagePage:
    """Page of images and text; its size and places are in pixels of ``raster``, from the left upper corner.

    In the vector files each image has all its own pixels, also where the page shows it larger or smaller, and text is
    text. A pixel of the page is 0.75 points.
    """

    height: int
    width: int
    tiles: list[Tile] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    swatches: list[Swatch] = field(default_factory=list)

    def raster(self) -> Tensor:
        """Return the page as an image uint8 (3, H, W); see ``images.resize`` for the size of its images."""
        sheet = Image.new("RGB", (self.width, self.height), PAPER)
        for image, x, y, height, width in self.tiles:
            shown = image if image.shape[1:] == (height, width) else resize(image, (height, width))
            sheet.paste(_to_pillow(shown), (x, y))
        draw = ImageDraw.Draw(sheet)
        for colour, x, y, side in self.swatches:
            draw.rounded_rectangle((x, y, x + side, y + side), 3, colour, _EDGE)
        for text, x, y, anchor, size, colour in self.words:
            draw.text((x, y), text, colour, load_font(size), anchor=f"{anchor}m")
        return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)

    def save(self, path: Path) -> None:
        """Write ``<path>.png``, ``<path>.pdf`` and ``<path>.svg``; see ``Drawing``."""
        save(self.raster(), Path(f"{path}.png"))
        Path(f"{path}.svg").write_text("".join(_svg(self)), encoding="utf-8")
        _write_pdf(self, Path(f"{path}.pdf"))

    def beside(self, other: "ImagePage") -> "ImagePage":
        """Return a page that has another one on the right of this one."""
        return ImagePage(
            max(self.height, other.height),
            self.width + other.width,
            self.tiles + [one._replace(x=one.x + self.width) for one in other.tiles],
            self.words + [one._replace(x=one.x + self.width) for one in other.words],
            self.swatches + [one._replace(x=one.x + self.width) for one in other.swatches],
        )


def page_of(image: Tensor) -> ImagePage:
    """Return a page that is one image, uint8 (3, H, W)."""
    _, height, width = image.shape
    return ImagePage(height, width, [Tile(image, 0, 0, height, width)])


def _to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def _to_hex(colour: Colour) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def _printable(text: str) -> str:
    """Return a text without the control characters that XML and fonts do not have."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _svg(page: ImagePage) -> Iterator[str]:
    """Yield the parts of an SVG file."""
    height, width = page.height, page.width
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * _POINTS:g}pt" height="{height * _POINTS:g}pt" '
        f'viewBox="0 0 {width} {height}" font-family="{FAMILY}, Verdana, sans-serif">\n'
        f'<rect width="{width}" height="{height}" fill="{_to_hex(PAPER)}"/>\n'
    )
    for image, x, y, high, wide in page.tiles:
        buffer = io.BytesIO()
        _to_pillow(image).save(buffer, "png")
        # Viewers smooth an image that is shown smaller than it is, and an enlarged one has sharp pixels.
        style = ' style="image-rendering:crisp-edges;image-rendering:pixelated"' if wide > image.shape[2] else ""
        yield (
            f'<image x="{x}" y="{y}" width="{wide}" height="{high}" preserveAspectRatio="none"{style} '
            f'href="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"/>\n'
        )
    for colour, x, y, side in page.swatches:
        yield (
            f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" rx="3" fill="{_to_hex(colour)}" '
            f'stroke="{_to_hex(_EDGE)}"/>\n'
        )
    for text, x, y, anchor, size, colour in page.words:
        yield (
            f'<text x="{x:g}" y="{y + _BASELINE * size:g}" font-size="{size}" text-anchor="{_ANCHORS[anchor]}" '
            f'fill="{_to_hex(colour)}">{escape(_printable(text))}</text>\n'
        )
    yield "</svg>\n"


def _write_pdf(page: ImagePage, path: Path) -> None:
    """Write a page as PDF by matplotlib, which embeds the font."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(page.width * _POINTS / 72, page.height * _POINTS / 72))
        figure.add_artist(_artist(page))
        figure.savefig(path, metadata={"CreationDate": None})


def _artist(page: ImagePage) -> "Artist":
    """Return an artist that draws the page on a PDF; one artist takes far less time than one for each image and text."""
    from matplotlib.artist import Artist
    from matplotlib.backend_bases import RendererBase
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path as Outline
    from matplotlib.transforms import Affine2D

    class PageArtist(Artist):
        def draw(self, renderer: RendererBase) -> None:
            for image, x, y, height, width in page.tiles:
                pixels = image.permute(1, 2, 0).numpy()[::-1]
                at = Affine2D().scale(width * _POINTS, height * _POINTS)
                place = x * _POINTS, (page.height - y - height) * _POINTS
                renderer.draw_image(renderer.new_gc(), *place, pixels, at)
            for colour, x, y, side in page.swatches:
                pen = renderer.new_gc()
                pen.set_foreground(_to_hex(_EDGE))
                pen.set_linewidth(_POINTS)
                square = Affine2D().scale(side, side).translate(x, page.height - y - side).scale(_POINTS)
                renderer.draw_path(pen, Outline.unit_rectangle(), square, [channel / 255 for channel in colour])
            for text, x, y, anchor, size, colour in page.words:
                pen = renderer.new_gc()
                pen.set_foreground(_to_hex(colour))
                left = x - load_font(size).getlength(text) * {"l": 0.0, "m": 0.5, "r": 1.0}[anchor]
                base = page.height - y - _BASELINE * size
                font = FontProperties(family=FAMILY, size=size * _POINTS)
                renderer.draw_text(pen, left * _POINTS, base * _POINTS, _printable(text), font, 0)

    return PageArtist()
