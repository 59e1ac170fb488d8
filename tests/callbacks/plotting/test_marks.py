"""Marks over images: the same as pixels and as shapes of vector files."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch

from darkroom.callbacks.plotting.boxes import mark_boxes, mark_mistakes
from darkroom.callbacks.plotting.grids import contact_sheet
from darkroom.callbacks.plotting.vector.items import Border, Marked, Region
from darkroom.callbacks.plotting.vector.marks import lines_of_border, paint, trace, trace_region
from tests.callbacks.plotting.test_vector_files import pdf_images, pdf_streams, pdf_texts, svg_images, svg_texts

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("cat & <dog>", "Ж")
PHOTO = torch.randint(0, 256, (3, 40, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
TRUTH = {
    "boxes": torch.tensor([[5.0, 5, 20, 30], [25, 10, 45, 35]]),
    "labels": torch.tensor([1, 2]),
    "difficult": torch.tensor([False, True]),
    "masks": torch.stack([torch.zeros(40, 50), torch.ones(40, 50)]).bool(),
}
TRUTH["masks"][0, 8:20, 6:15] = True


def fill(loops: list[list[tuple[int, int]]], shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels inside of an odd number of polygons along the edges of pixels."""
    crossed = np.zeros((shape[0], shape[1] + 1), dtype=int)
    for loop in loops:
        for (x0, y0), (x1, y1) in zip(loop, [*loop[1:], loop[0]], strict=True):
            assert x0 == x1 or y0 == y1
            if x0 == x1:
                crossed[min(y0, y1) : max(y0, y1), x0] += 1
    return crossed.cumsum(1)[:, :-1] % 2 == 1


@pytest.mark.parametrize("seed", range(4))
def test_polygons_cover_the_pixels_of_a_mask(seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 12)) < 0.2 + 0.2 * seed
    loops = trace(mask)
    assert (fill(loops, mask.shape) == mask).all()
    assert trace(np.zeros((3, 4), dtype=bool)) == []


def test_polygon_of_a_rectangle_has_four_corners() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, 2:7] = True
    (loop,) = trace(mask)
    assert sorted(loop) == [(2, 1), (2, 4), (7, 1), (7, 4)]


@pytest.mark.parametrize("times", [1, 3])
def test_outline_of_a_mask_covers_the_same_pixels_in_both(times: int) -> None:
    mask = torch.rand(10, 14, generator=torch.Generator().manual_seed(1)) < 0.8
    region, size = Region(mask, (255, 0, 0), 1), (10 * times, 14 * times)
    painted = paint(Marked(torch.zeros(3, 10, 14, dtype=torch.uint8), [region], size))[0]
    whole, ring, shape = trace_region(region, size)
    assert shape == size
    assert (fill(ring, size) == (painted == 255).numpy()).all()
    assert (fill(whole, size) == (painted > 0).numpy()).all()
    assert set(painted.unique().tolist()) <= {0, round(0.4 * 255), 255}


def test_outline_of_a_reduced_mask_has_its_own_pixels() -> None:
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[11:31, 9:41] = True
    whole, ring, shape = trace_region(Region(mask, (255, 0, 0), 1), (20, 30))
    assert shape == (40, 60)
    assert (fill(whole, shape) == mask.numpy()).all()
    inside = np.zeros((40, 60), dtype=bool)
    inside[13:29, 11:39] = True  # two pixels of the mask are one of the page
    assert (fill(ring, shape) == (mask.numpy() & ~inside)).all()


def test_lines_of_a_border_lie_inside_of_it() -> None:
    solid, closed = lines_of_border(Border(10, 20, 29, 39, (0, 0, 0), 2, 0))
    assert closed
    assert solid == [[(11, 21), (29, 21), (29, 39), (11, 39)]]
    dashed, closed = lines_of_border(Border(10, 20, 29, 39, (0, 0, 0), 2, 8))
    assert not closed
    assert dashed == [[(10, 21), (30, 21)], [(10, 39), (30, 39)], [(11, 20), (11, 40)], [(29, 20), (29, 40)]]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path, without suffix, of a page of a photo with its objects and with errors."""
    path = tmp_path_factory.mktemp("page") / "page"
    found = {"boxes": TRUTH["boxes"][:1] + 12, "labels": torch.tensor([2]), "scores": torch.tensor([0.75])}
    plain = {name: value for name, value in TRUTH.items() if name != "masks"}
    size = (160, 200)
    rows = [mark_boxes(PHOTO, TRUTH, NAMES, size), mark_mistakes(PHOTO, found, plain, NAMES, size)]
    contact_sheet({"truth": rows[:1], "errors": rows[1:]}, side=200).save(path)
    return path


def test_boxes_and_masks_are_shapes_over_own_pixels(page: Path) -> None:
    for images in (svg_images(Path(f"{page}.svg")), pdf_images(Path(f"{page}.pdf"))):
        assert torch.equal(images[0], PHOTO)
        assert len(images) == 2
    root = ET.parse(f"{page}.svg").getroot()
    groups = list(root.iter(f"{SVG}svg"))[1:]
    assert [group.get("viewBox") for group in groups] == ["0 0 200 160"] * 2
    truth, errors = groups
    assert len([one for one in truth.iter(f"{SVG}path") if one.get("fill-rule")]) == 4  # two masks and their outlines
    strokes = [one for one in truth.iter(f"{SVG}path") if one.get("stroke")]
    assert [bool(one.get("stroke-dasharray")) for one in strokes] == [True, False]  # the first object is on top
    assert strokes[1].get("d") == "M20.5 20.5 79.5 20.5 79.5 119.5 20.5 119.5Z"
    assert [one.get("fill") for one in errors.iter(f"{SVG}rect")] == ["#f43e3e", "#ffffff"]  # tags
    content = next(data.decode("latin-1") for _, data in pdf_streams(Path(f"{page}.pdf")) if b" Tj" in data)
    assert content.count("f*") == 4
    assert len(re.findall(r" S$", content, re.MULTILINE)) == 2 + 2
    assert "20.5 139.5 m 79.5 139.5 l 79.5 40.5 l 20.5 40.5 l h S" in content  # from below


def test_names_of_boxes_are_text(page: Path) -> None:
    expected = ["cat & <dog>", "Ж", "Ж 0.75", "errors", "missed cat & <dog>", "truth"]
    assert sorted(svg_texts(Path(f"{page}.svg"))) == sorted(expected)
    assert sorted(pdf_texts(Path(f"{page}.pdf"))) == sorted(expected)


def test_image_of_a_page_is_that_of_painted_tiles() -> None:
    marked = mark_boxes(PHOTO, TRUTH, NAMES, (160, 200))
    page, painted = contact_sheet({"a": [marked]}, side=200), contact_sheet({"a": [paint(marked)]}, side=200)
    assert torch.equal(page.raster(), painted.raster())


def test_marks_are_scaled_with_an_image_that_is_shown_smaller(tmp_path: Path) -> None:
    contact_sheet({"a": [mark_boxes(PHOTO, TRUTH, NAMES)]}, side=100).save(tmp_path / "page")
    group = list(ET.parse(tmp_path / "page.svg").getroot().iter(f"{SVG}svg"))[1]
    assert (group.get("width"), group.get("height"), group.get("viewBox")) == ("100", "80", "0 0 300 240")
    matrix = re.search(rb"q (\S+) 0 0 (\S+) \d+ \d+ cm\n0 0 300 240 re W n", content_of(tmp_path / "page.pdf"))
    assert matrix is not None
    assert [float(value) for value in matrix.groups()] == pytest.approx([1 / 3, 1 / 3], abs=1e-5)


def content_of(path: Path) -> bytes:
    return next(data for _, data in pdf_streams(path) if b" cm" in data)
