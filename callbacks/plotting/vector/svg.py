"""SVG of a page of images: pixels of the images as PNG, text as text."""

import base64
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from darkroom.callbacks.plotting.style import FAMILY
from darkroom.callbacks.plotting.vector.items import (
    BASELINE,
    EDGE,
    POINTS,
    TINT,
    Border,
    Colour,
    Mark,
    Region,
    Swatch,
    Tile,
    Words,
)
from darkroom.callbacks.plotting.vector.marks import lines_of_border, trace_region

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
        tiles: places of the images, and marks over them.
        images: the image of each tile as PNG.
        swatches: squares of colour.
        words: lines of text.
    """
    shown = (part for tile, png in zip(tiles, images, strict=True) for part in (_image(tile, png), _marks(tile)))
    return "".join((*_start(*size), *shown, *map(_square, swatches), *map(_text, words), "</svg>\n"))


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


def _marks(tile: Tile) -> str:
    """Return the marks of a tile, cut off at its edges."""
    if not tile.marks:
        return ""
    view = f'viewBox="0 0 {tile.size[1]} {tile.size[0]}" preserveAspectRatio="none"'
    content = "".join(_mark(mark, tile.size) for mark in tile.marks)
    return f'<svg x="{tile.x}" y="{tile.y}" width="{tile.width}" height="{tile.height}" {view}>\n{content}</svg>\n'


def _mark(mark: Mark, size: tuple[int, int]) -> str:
    if isinstance(mark, Region):
        return _region(mark, size)
    if isinstance(mark, Border):
        line = f'fill="none" stroke="{_hex(mark.colour)}" stroke-width="{mark.line}"'
        line += f' stroke-dasharray="{mark.dash}"' if mark.dash else ""
        lines, closed = lines_of_border(mark)
        return f'<path d="{_path(lines, closed)}" {line}/>\n'
    width, height = mark.right - mark.left, mark.bottom - mark.top
    box = f'<rect x="{mark.left}" y="{mark.top}" width="{width}" height="{height}" fill="{_hex(mark.colour)}"/>\n'
    return box + _text(mark.words)


def _region(region: Region, size: tuple[int, int]) -> str:
    whole, ring, (height, width) = trace_region(region, size)
    scale = f' transform="scale({size[1] / width:g} {size[0] / height:g})"' if (height, width) != size else ""
    fill = f'fill="{_hex(region.colour)}" fill-rule="evenodd"{scale}'
    return f'<path d="{_path(whole)}" {fill} fill-opacity="{TINT}"/>\n<path d="{_path(ring)}" {fill}/>\n'


def _path(lines: Sequence[Sequence[tuple[float, float]]], closed: bool = True) -> str:
    end = "Z" if closed else ""
    return "".join("M" + " ".join(f"{x:g} {y:g}" for x, y in line) + end for line in lines)


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
