"""Parts of a page: escaping, tables in three formats, galleries, and a page without requests."""

import csv
import re
from pathlib import Path

import pytest

from darkroom.report.gallery import Gallery, Item, Shown
from darkroom.report.markup import Html, element
from darkroom.report.page import Header, Section, render_page, write_page
from darkroom.report.table import MOST_ROWS, Cell, Table, Target, format_value, table_html, write_csv, write_latex

NAMES = Table(
    "names", ("class", "IoU", "images"), [("a & b_<1>", 0.123456, 3), ("c", float("nan"), None)], "IoU by class."
)


def test_text_and_attributes_are_escaped() -> None:
    assert element("p", '<b> & "x"') == "<p>&lt;b&gt; &amp; &quot;x&quot;</p>"
    assert element("a", Html("<b>x</b>"), data_key='"<') == '<a data-key="&quot;&lt;"><b>x</b></a>'
    assert "<script>alert" not in render_page(Header("run", "<script>alert(1)</script>"), [])


def test_attributes_of_values_true_false_and_none() -> None:
    assert element("p", hidden=True, title=None, open=False) == "<p hidden></p>"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (12345, "12,345"), (float("nan"), "–"), (None, "–"), ("cat", "cat"), (1e-5, "1e-05")],
)
def test_numbers_have_four_digits(value: str | float | None, text: str) -> None:
    assert format_value(value) == text


def test_table_shows_rounded_numbers_and_keeps_all_digits() -> None:
    page = table_html(NAMES)
    assert '<td class="number" data-value="0.123456">0.1235</td>' in page
    assert "a &amp; b_&lt;1&gt;" in page
    assert page.count("<td") == 6


def test_csv_has_all_digits_and_empty_cells(tmp_path: Path) -> None:
    write_csv(NAMES, tmp_path / "names.csv")
    rows = list(csv.reader((tmp_path / "names.csv").open()))
    assert rows == [["class", "IoU", "images"], ["a & b_<1>", "0.123456", "3"], ["c", "nan", ""]]


def test_latex_has_rules_of_booktabs_and_escaped_text(tmp_path: Path) -> None:
    table = Table("best", ("50%", "#"), [("a_b", Cell(0.5, bold=True)), ("~", None)])
    write_latex(table, tmp_path / "best.tex")
    text = (tmp_path / "best.tex").read_text()
    assert [line for line in text.splitlines() if not line.startswith("%")] == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"50\% & \# \\",
        r"\midrule",
        r"a\_b & \textbf{0.5} \\",
        r"\textasciitilde{} & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_long_table_is_cut_in_page_but_not_in_csv(tmp_path: Path) -> None:
    table = Table("long", ("sample",), [(i,) for i in range(MOST_ROWS + 7)])
    page = table_html(table)
    assert page.count("<tr") == MOST_ROWS + 1
    assert "500 of 507 rows" in page
    write_csv(table, tmp_path / "long.csv")
    assert len((tmp_path / "long.csv").read_text().splitlines()) == MOST_ROWS + 8


def test_number_leads_to_images_only_if_there_are_some() -> None:
    item = Item("0.png", "circle", [Shown("data:image/png;base64,", "", 8, 8)], frozenset({"t0-p1"}))
    gallery = Gallery("images", {"t0-p1": "circle as square", "none": "nothing"}, [item])
    assert gallery.cell(3, "t0-p1", "circle as square", gallery.counts).target == Target(
        "images", "t0-p1", "circle as square"
    )
    assert gallery.cell(3, "t1-p1", "square", gallery.counts).target is None
    page = gallery.html()
    assert 'id="images"' in page
    assert 'data-keys="t0-p1"' in page
    assert "circle as square" in page
    assert "nothing" not in page  # a button without images


def test_page_is_one_file_without_requests(tmp_path: Path) -> None:
    write_page(
        tmp_path / "index.html", Header("unet/0", "UNet on Shapes", "0.9", "mIoU"), [Section("curves", "Curves", [])]
    )
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r"https?:", page)
    assert not re.search(r"<link|src=\"(?!data:)", page)
    assert 'href="#curves"' in page
    assert 'id="curves"' in page
    assert "default-src &#x27;none&#x27;" in page
    assert list(tmp_path.iterdir()) == [tmp_path / "index.html"]
