"""SVG of a page of images: pixels of the images as PNG, text as text."""

import base64
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from darkroom.callbacks.plotting.style import FAMILY
from darkroom.callbacks.plotting.vector.items import BASELINE, EDGE, POINTS, Colour, Swatch, Tile, Words

_ANCHORS = {"l": "start", "m": "middle", "r": "end"}


def svg(
    size: tuple[int, int],
    tiles: Sequence[Tile],
    images: Sequence[bytes],
    swatches: Sequence[Swatch],
    words: Sequence[Words],
) -> str:
    """Return an SVG file.

    Args:
        size: height and width of the page in pixels.
        tiles: places of the images.
        images: the image of each tile as PNG.
        swatches: squares of colour.
        words: lines of text.
    """
    return "".join(
        (*_start(*size), *map(_image, tiles, images), *map(_square, swatches), *map(_text, words), "</svg>\n")
    )


def _start(height: int, width: int) -> Iterator[str]:
    """Yield the head of the file and a white page."""
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * POINTS:g}pt" height="{height * POINTS:g}pt" '
        f'viewBox="0 0 {width} {height}" font-family="{FAMILY}, Verdana, sans-serif">\n'
    )
    yield f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n'


def _image(tile: Tile, png: bytes) -> str:
    # Viewers smooth an image that is shown smaller than it is; an enlarged one has sharp pixels.
    enlarged = tile.width > tile.image.shape[2]
    style = ' style="image-rendering:crisp-edges;image-rendering:pixelated"' if enlarged else ""
    return (
        f'<image x="{tile.x}" y="{tile.y}" width="{tile.width}" height="{tile.height}" preserveAspectRatio="none"{style} '
        f'href="data:image/png;base64,{base64.b64encode(png).decode()}"/>\n'
    )


def _square(swatch: Swatch) -> str:
    return (
        f'<rect x="{swatch.x:g}" y="{swatch.y:g}" width="{swatch.side:g}" height="{swatch.side:g}" rx="3" '
        f'fill="{_hex(swatch.colour)}" stroke="{_hex(EDGE)}"/>\n'
    )


def _text(words: Words) -> str:
    base = words.y + BASELINE * words.size
    return (
        f'<text x="{words.x:g}" y="{base:g}" font-size="{words.size}" text-anchor="{_ANCHORS[words.anchor]}" '
        f'fill="{_hex(words.colour)}">{escape(words.text)}</text>\n'
    )


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)
