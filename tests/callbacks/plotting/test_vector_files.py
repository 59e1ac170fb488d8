"""Vector files: text is text in embedded fonts, images have their own pixels, and the bytes are equal in every run."""

import base64
import io
import os
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from darkroom.callbacks.plotting.bars import bar_chart
from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.drawing import Drawing
from darkroom.callbacks.plotting.grids import contact_sheet, image_grid, image_groups
from darkroom.callbacks.plotting.matrix import matrix
from darkroom.callbacks.plotting.page import page_of
from darkroom.callbacks.plotting.scatter import scatter
from darkroom.callbacks.plotting.style import parse_width
from tests.conftest import CONFIGS

NAMES = ["cat & <dog>", "½ éß", "c"]
IMAGES = torch.randint(0, 256, (6, 3, 10, 14), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def plots() -> dict[str, Drawing]:
    """A small plot of each kind, with the title "A title" and the labels "x (px)" and "y (m)"."""
    words, width = ("A title", ("x (px)", "y (m)")), parse_width("iccv-column")
    points = torch.arange(12.0).view(6, 2)
    return {
        "curves": curves([points, points + 1], ["a", "b"], *words, bands=[torch.ones(6), None], width=width),
        "scatter": scatter(points, torch.arange(6) % 3, NAMES, *words, width=width),
        "bars": bar_chart(NAMES, {"a": [1, 2, 3], "b": [3, 2, 1]}, *words, width=width),
        "matrix": matrix(torch.eye(3), NAMES, NAMES, *words, width=width),
    }


def pages() -> dict[str, tuple[Drawing, list[str]]]:
    """A page of each kind with IMAGES, and its texts."""
    below = [["one", "", "three"], ["fünf", "µ ± σ", "Ж"]]
    rows = IMAGES.split(3)
    return {
        "grid": (
            image_grid(rows, NAMES[:2], ["left", "middle", "right"], "A title", captions=below),
            [*NAMES[:2], "left", "middle", "right", "A title", "one", "three", "fünf", "µ ± σ", "Ж"],
        ),
        "sheet": (contact_sheet({"input": rows[0], "truth": rows[1]}, {"star": 1}, side=5), ["input", "truth", "star"]),
        "groups": (image_groups(rows, NAMES, ["guidance 1", "guidance 2"]), [*NAMES, "guidance 1", "guidance 2"]),
    }


def save_all(folder: Path) -> None:
    """Write the plots and one page."""
    for name, drawing in (plots() | {"grid": pages()["grid"][0]}).items():
        drawing.save(folder / name)


def svg_texts(path: Path) -> list[str]:
    """Texts of an SVG file, which must be well-formed."""
    return ["".join(node.itertext()) for node in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def svg_images(path: Path) -> list[Tensor]:
    """Images of an SVG file in order."""
    links = re.findall(r'href="data:image/png;base64,([^"]*)"', path.read_text())
    return [to_tensor(Image.open(io.BytesIO(base64.b64decode(link)))) for link in links]


def pdf_streams(path: Path) -> list[tuple[str, bytes]]:
    """Head and data of each stream of a PDF file, without compression."""
    found = re.findall(rb"<<((?:(?!endobj).)*?)>>\s*stream\n(.*?)\nendstream", path.read_bytes(), re.DOTALL)
    return [(head.decode(), zlib.decompress(data)) for head, data in found]


def pdf_images(path: Path) -> list[Tensor]:
    """Images of a PDF file in order, by the filters of PNG."""
    images = []
    for head, data in pdf_streams(path):
        if "/Subtype /Image" in head:
            width, height = (int(re.search(rf"/{side} (\d+)", head)[1]) for side in ("Width", "Height"))
            header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
            chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
            png = b"\x89PNG\r\n\x1a\n" + b"".join(
                struct.pack(">I", len(some)) + kind + some + struct.pack(">I", zlib.crc32(kind + some))
                for kind, some in chunks
            )
            images.append(to_tensor(Image.open(io.BytesIO(png))))
    return images


def pdf_texts(path: Path) -> list[str]:
    """Texts of a page of images, as a viewer copies them."""
    streams = [data.decode("latin-1") for _, data in pdf_streams(path)]
    letters = next(some for some in streams if "beginbfchar" in some)
    pairs = re.findall(r"^<(\w{4})> <(\w+)>$", letters, re.MULTILINE)
    letter_of = {glyph: bytes.fromhex(letter).decode("utf-16-be") for glyph, letter in pairs}
    drawn = re.findall(r"<(\w*)> Tj", next(some for some in streams if " Tj" in some))
    return ["".join(letter_of[text[place : place + 4]] for place in range(0, len(text), 4)) for text in drawn]


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("kind", ["curves", "scatter", "bars", "matrix"])
def test_plots_are_vectors_with_text_and_embedded_fonts(kind: str, tmp_path: Path) -> None:
    plot = plots()[kind]
    plot.save(tmp_path / "folder" / "plot.v1")  # the dot belongs to the name
    folder = tmp_path / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["plot.v1.pdf", "plot.v1.png", "plot.v1.svg"]
    texts = svg_texts(folder / "plot.v1.svg")
    assert {"A title", "x (px)", "y (m)"} <= set(texts)
    assert ("a" if kind == "curves" else NAMES[0]) in texts
    content = (folder / "plot.v1.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    # The scale of colours beside a matrix is an image of its colours; nothing else is.
    assert content.count(b"/Subtype /Image") == svg_count(folder / "plot.v1.svg") == (kind == "matrix")
    assert torch.equal(to_tensor(Image.open(folder / "plot.v1.png")), plot.raster())


def svg_count(path: Path) -> int:
    return path.read_text().count("<image")


def test_page_width_is_that_of_the_template(tmp_path: Path) -> None:
    plots()["curves"].save(tmp_path / "a")
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", (tmp_path / "a.pdf").read_bytes())
    assert float(box[1]) / 72 == pytest.approx(3.28125)
    assert float(ET.parse(tmp_path / "a.svg").getroot().get("width").removesuffix("pt")) == pytest.approx(236.25)


@pytest.mark.parametrize("kind", ["grid", "sheet", "groups"])
def test_pages_embed_own_pixels_of_images_and_text(kind: str, tmp_path: Path) -> None:
    page, words = pages()[kind]
    page.save(tmp_path / "page")
    for images in (svg_images(tmp_path / "page.svg"), pdf_images(tmp_path / "page.pdf")):
        assert len(images) == 6
        assert all(map(torch.equal, images, IMAGES))
    assert sorted(svg_texts(tmp_path / "page.svg")) == sorted(words) == sorted(pdf_texts(tmp_path / "page.pdf"))
    content = (tmp_path / "page.pdf").read_bytes()
    assert b"/FontFile2" in content
    # Enlarged images have sharp pixels; reduced ones are smoothed by the viewer.
    assert ("image-rendering:pixelated" in (tmp_path / "page.svg").read_text()) == (kind != "sheet")
    _, height, width = page.raster().shape
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)", content)
    assert (float(box[1]), float(box[2])) == (0.75 * width, 0.75 * height)


def test_references_of_pdf_pages_are_valid(tmp_path: Path) -> None:
    pages()["grid"][0].save(tmp_path / "page")
    content = (tmp_path / "page.pdf").read_bytes()
    start = int(re.search(rb"startxref\n(\d+)", content)[1])
    places = [int(line[:10]) for line in content[start:].splitlines()[3:] if line.endswith(b" n ")]
    for number, place in enumerate(places, 1):
        assert content[place:].startswith(f"{number} 0 obj\n".encode())
    numbers = {int(number) for number in re.findall(rb"(\d+) 0 R", content)}
    assert numbers == set(range(1, len(places) + 1))


def test_control_characters_do_not_break_the_files(tmp_path: Path) -> None:
    image_grid([IMAGES[:1]], captions=[["a\x00b\x1b"]]).save(tmp_path / "page")
    assert svg_texts(tmp_path / "page.svg") == ["a b "]


def test_page_of_one_image_is_the_image(tmp_path: Path) -> None:
    page_of(IMAGES[0]).save(tmp_path / "page")
    assert torch.equal(to_tensor(Image.open(tmp_path / "page.png")), IMAGES[0])
    assert [image.tolist() for image in pdf_images(tmp_path / "page.pdf")] == [IMAGES[0].tolist()]


def test_files_are_equal_in_two_drawings(tmp_path: Path) -> None:
    for name in ("first", "second"):
        plots()["scatter"].save(tmp_path / name / "plot")
        pages()["grid"][0].save(tmp_path / name / "page")
    first, second = (
        [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in ("first", "second")
    )
    assert len(first) == 6
    assert first == second


@pytest.mark.slow  # imports torch in a process of its own
def test_files_are_equal_in_two_processes_and_matplotlib_is_imported_late(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import torchmetrics  # imports matplotlib
for name in [name for name in sys.modules if name.partition(".")[0] in ("matplotlib", "fontTools")]:
    del sys.modules[name]
from tests.callbacks.plotting.test_vector_files import save_all
assert not {"matplotlib", "fontTools"} & sys.modules.keys()
save_all(Path(sys.argv[1]))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "theirs")]
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # the order of sets differs
    subprocess.run(command, cwd=CONFIGS.parent, env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
    save_all(tmp_path / "ours")
    theirs, ours = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("theirs", "ours")
    )
    assert len(ours) == 15
    assert theirs == ours
