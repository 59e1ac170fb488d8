"""ImagePage: images with text around them, as an image for the screen and as a vector page that embeds them."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from darkroom.callbacks.plotting.images import PAPER, resize, save
from darkroom.callbacks.plotting.style import load_font
from darkroom.callbacks.plotting.vector.items import EDGE, Mark, Marked, Swatch, Tag, Tile, Words
from darkroom.callbacks.plotting.vector.marks import draw_words, paint
from darkroom.callbacks.plotting.vector.pdf import pdf
from darkroom.callbacks.plotting.vector.svg import svg

_COMPRESSION = 3  # of PNGs in vector files: a third of the time of the default 6, for about a tenth more bytes


@dataclass
class ImagePage:
    """Page of images and text; its size and places are in pixels of ``raster``, from the left upper corner.

    In the vector files each image has its own pixels, also where the page shows it larger or smaller. Text is text, and
    marks over images are shapes. A pixel of the page is 0.75 points.
    """

    height: int
    width: int
    tiles: list[Tile] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    swatches: list[Swatch] = field(default_factory=list)

    def raster(self) -> Tensor:
        """Return the page as an image uint8 (3, H, W); see ``images.resize`` for the size of its images."""
        sheet = Image.new("RGB", (self.width, self.height), PAPER)
        for tile in self.tiles:
            image = paint(Marked(tile.image, tile.marks, tile.size)) if tile.marks else tile.image
            size = tile.height, tile.width
            sheet.paste(_to_pillow(image if image.shape[1:] == size else resize(image, size)), (tile.x, tile.y))
        draw = ImageDraw.Draw(sheet)
        for one in self.swatches:
            draw.rounded_rectangle((one.x, one.y, one.x + one.side, one.y + one.side), 3, one.colour, EDGE)
        for line in self.words:
            draw_words(draw, line)
        return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)

    def save(self, path: Path) -> None:
        """Write ``<path>.png``, ``<path>.pdf`` and ``<path>.svg``; see ``Drawing``."""
        save(self.raster(), Path(f"{path}.png"))
        size, images = (self.height, self.width), [_encode(tile.image) for tile in self.tiles]
        words = [line._replace(text=_printable(line.text)) for line in self.words]
        tiles = [tile._replace(marks=[*map(_printable_mark, tile.marks)]) for tile in self.tiles]
        Path(f"{path}.svg").write_text(svg(size, tiles, images, self.swatches, words), encoding="utf-8")
        Path(f"{path}.pdf").write_bytes(pdf(size, tiles, images, self.swatches, words, _length))

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


def _encode(image: Tensor) -> bytes:
    """Return an image as PNG."""
    buffer = io.BytesIO()
    _to_pillow(image).save(buffer, "png", compress_level=_COMPRESSION)
    return buffer.getvalue()


def _length(words: Words) -> float:
    return load_font(words.size).getlength(words.text)


def _printable(text: str) -> str:
    """Return a text without control characters, which XML does not have."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _printable_mark(mark: Mark) -> Mark:
    return mark._replace(text=_printable(mark.text)) if isinstance(mark, Tag) else mark
