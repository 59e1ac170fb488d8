"""PDF of a page of images: pixels of the images as they are, text as text in an embedded TrueType font.

matplotlib writes the same page in half a second, most of it for the font and for a second compression of the images.
Here the font is cached and the images come compressed, so that a figure in every validation costs little.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from darkroom.callbacks.plotting.style import FAMILY, font_file
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
    Tag,
    Tile,
    Words,
)
from darkroom.callbacks.plotting.vector.marks import lines_of_border, trace_region

_ASCII = "".join(map(chr, range(32, 127)))
_COMMON = _ASCII + "±×·…–—−°µα"  # cached together; other letters are added to the font of their page
_NAME = FAMILY.replace(" ", "")


class _Font(NamedTuple):
    """Font file with a few letters; widths are in thousandths of the font's size."""

    data: bytes
    glyphs: Mapping[str, int]
    widths: Sequence[int]
    ascent: int
    descent: int
    box: Sequence[int]


def pdf(
    size: tuple[int, int],
    tiles: Sequence[Tile],
    images: Sequence[bytes],
    swatches: Sequence[Swatch],
    words: Sequence[Words],
    length: Callable[[Words], float],
) -> bytes:
    """Return a PDF file of one page.

    Args:
        size: height and width of the page in pixels.
        tiles: places of the images, and marks over them.
        images: the image of each tile as PNG, RGB without transparency and interlacing.
        swatches: squares of colour.
        words: lines of text.
        length: function that returns the length of a line of text in pixels.
    """
    height, width = size
    tags = [mark.words for tile in tiles for mark in tile.marks if isinstance(mark, Tag)]
    font = _font(frozenset(letter for line in [*words, *tags] for letter in line.text) - frozenset(_COMMON))
    drawn = [f"{POINTS} 0 0 {POINTS} 0 0 cm"]
    for index, tile in enumerate(tiles):
        drawn += [_draw_tile(index, tile, height), *_draw_marks(tile, height, font)]
    drawn += [_draw_swatch(swatch, height) for swatch in swatches]
    drawn += [_draw_words(line, height, font, length(line)) for line in words]
    first = 9  # number of the first image
    names = " ".join(f"/I{index} {first + index} 0 R" for index in range(len(tiles)))
    page = (
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width * POINTS:g} {height * POINTS:g}] /Contents 4 0 R "
        f"/Resources << /Font << /F 5 0 R >> /XObject << {names} >> "
        f"/ExtGState << /Tinted << /ca {TINT} >> /Opaque << /ca 1 >> >> >> >>"
    )
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        page.encode(),
        _stream("", zlib.compress("\n".join(drawn).encode()), "/FlateDecode"),
        *_font_objects(font, number=5),
        *(_image_object(png) for png in images),
    ]
    return _file(objects)


def _draw_tile(index: int, tile: Tile, height: int) -> str:
    return f"q {tile.width} 0 0 {tile.height} {tile.x} {height - tile.y - tile.height} cm /I{index} Do Q"


def _draw_marks(tile: Tile, height: int, font: _Font) -> Iterator[str]:
    """Yield the marks of a tile, cut off at its edges."""
    if tile.marks:
        high, wide = tile.size
        yield f"q {tile.width / wide:g} 0 0 {tile.height / high:g} {tile.x} {height - tile.y - tile.height} cm"
        yield f"0 0 {wide} {high} re W n"
        for mark in tile.marks:
            yield from _draw_mark(mark, tile.size, font)
        yield "Q"


def _draw_mark(mark: Mark, size: tuple[int, int], font: _Font) -> Iterator[str]:
    height = size[0]
    if isinstance(mark, Region):
        whole, ring, (rows, columns) = trace_region(mark, size)
        yield f"q {size[1] / columns:g} 0 0 {height / rows:g} 0 0 cm {_rgb(mark.colour)} rg"
        yield f"/Tinted gs {_path(whole, rows)} f* /Opaque gs {_path(ring, rows)} f* Q"
    elif isinstance(mark, Border):
        lines, closed = lines_of_border(mark)
        dash = f"[{mark.dash}] 0 d" if mark.dash else "[] 0 d"
        yield f"{_rgb(mark.colour)} RG {mark.line} w {dash} {_path(lines, height, closed)} S"
    else:
        low, wide, high = height - mark.bottom, mark.right - mark.left, mark.bottom - mark.top
        yield f"{_rgb(mark.colour)} rg {mark.left} {low} {wide} {high} re f"
        yield _draw_words(mark.words, height, font, 0.0)  # its left end is known


def _path(lines: Sequence[Sequence[tuple[float, float]]], height: int, closed: bool = True) -> str:
    parts = []
    for (x0, y0), *others in lines:
        parts += [f"{x0:g} {height - y0:g} m", *(f"{x:g} {height - y:g} l" for x, y in others)]
        parts += ["h"] if closed else []
    return " ".join(parts)


def _draw_swatch(swatch: Swatch, height: int) -> str:
    x, y, side = swatch.x, height - swatch.y - swatch.side, swatch.side
    return f"{_rgb(swatch.colour)} rg {_rgb(EDGE)} RG {x:g} {y:g} {side:g} {side:g} re B"


def _draw_words(words: Words, height: int, font: _Font, length: float) -> str:
    left = words.x - length * {"l": 0.0, "m": 0.5, "r": 1.0}[words.anchor]
    base = height - words.y - BASELINE * words.size
    glyphs = "".join(f"{font.glyphs.get(letter, 0):04x}" for letter in words.text)
    return f"BT /F {words.size} Tf {_rgb(words.colour)} rg {left:.2f} {base:.2f} Td <{glyphs}> Tj ET"


def _rgb(colour: Colour) -> str:
    return " ".join(f"{channel / 255:.3f}" for channel in colour)


@cache
def _font(more: frozenset[str]) -> _Font:
    """Return the font with the common letters and ``more``; a letter that it lacks is left out."""
    from fontTools import subset

    options = subset.Options(hinting=False, layout_features=[], notdef_outline=True, recalc_timestamp=False)
    options.drop_tables += ["FFTM", "GDEF", "GPOS", "GSUB", "kern"]
    with subset.load_font(font_file(), options, dontLoadGlyphNames=True) as font:
        few = subset.Subsetter(options)
        few.populate(text=_COMMON + "".join(sorted(more)))
        few.subset(font)
        buffer = io.BytesIO()
        font.save(buffer)
        order = font.getGlyphOrder()
        numbers = {name: index for index, name in enumerate(order)}
        thousandths = 1000 / font["head"].unitsPerEm
        return _Font(
            buffer.getvalue(),
            {chr(code): numbers[name] for code, name in font.getBestCmap().items()},
            [round(font["hmtx"][name][0] * thousandths) for name in order],
            round(font["hhea"].ascent * thousandths),
            round(font["hhea"].descent * thousandths),
            [round(font["head"].__dict__[edge] * thousandths) for edge in ("xMin", "yMin", "xMax", "yMax")],
        )


def _font_objects(font: _Font, number: int) -> Iterator[bytes]:
    """Yield a font as four objects, the first one ``number``: the font, its description, its file and its letters."""
    yield (
        f"<< /Type /Font /Subtype /Type0 /BaseFont /DRKRMA+{_NAME} /Encoding /Identity-H "
        f"/DescendantFonts [<< /Type /Font /Subtype /CIDFontType2 /BaseFont /DRKRMA+{_NAME} /CIDToGIDMap /Identity "
        f"/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> /FontDescriptor {number + 1} 0 R "
        f"/W [0 [{' '.join(map(str, font.widths))}]] >>] /ToUnicode {number + 3} 0 R >>"
    ).encode()
    yield (
        f"<< /Type /FontDescriptor /FontName /DRKRMA+{_NAME} /Flags 32 /FontBBox [{' '.join(map(str, font.box))}] "
        f"/ItalicAngle 0 /Ascent {font.ascent} /Descent {font.descent} /CapHeight 729 /StemV 80 "
        f"/FontFile2 {number + 2} 0 R >>"
    ).encode()
    yield _stream(f"/Length1 {len(font.data)}", zlib.compress(font.data), "/FlateDecode")
    yield _stream("", zlib.compress(_letters(font.glyphs).encode()), "/FlateDecode")


def _letters(glyphs: Mapping[str, int]) -> str:
    """Return the map from glyphs to letters, by which viewers search and copy text."""
    pairs = [f"<{glyph:04x}> <{letter.encode('utf-16-be').hex()}>" for letter, glyph in glyphs.items()]
    blocks = [pairs[start : start + 100] for start in range(0, len(pairs), 100)]  # 100 at most, by the specification
    maps = "\n".join(f"{len(block)} beginbfchar\n" + "\n".join(block) + "\nendbfchar" for block in blocks)
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /Letters def /CMapType 2 def\n"
        f"1 begincodespacerange <0000> <ffff> endcodespacerange\n{maps}\nendcmap end end"
    )


def _image_object(png: bytes) -> bytes:
    """Return an image whose data are those of a PNG, which PDF compresses in the same way."""
    place, data = 8, b""
    width, height = struct.unpack(">II", png[16:24])
    while place < len(png):
        (size,) = struct.unpack(">I", png[place : place + 4])
        if png[place + 4 : place + 8] == b"IDAT":
            data += png[place + 8 : place + 8 + size]
        place += 12 + size
    about = (
        f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceRGB /BitsPerComponent 8 "
        f"/DecodeParms << /Predictor 15 /Colors 3 /BitsPerComponent 8 /Columns {width} >>"
    )
    return _stream(about, data, "/FlateDecode")


def _stream(about: str, data: bytes, filters: str) -> bytes:
    return f"<< {about} /Filter {filters} /Length {len(data)} >>\nstream\n".encode() + data + b"\nendstream"


def _file(objects: Sequence[bytes]) -> bytes:
    """Return a PDF file of numbered objects, the first of which is the catalog."""
    parts, places = [b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"], []
    for number, content in enumerate(objects, 1):
        places.append(sum(map(len, parts)))
        parts.append(f"{number} 0 obj\n".encode() + content + b"\nendobj\n")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    parts.append(
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\n"
        f"startxref\n{sum(map(len, parts))}\n%%EOF\n".encode()
    )
    return b"".join(parts)
