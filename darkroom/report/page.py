"""A page: one HTML file without any request, from a header and sections."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from darkroom import __version__
from darkroom.report.markup import Html, element, escape, facts, join, link

# The browser itself refuses every request.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"


@dataclass(frozen=True)
class Section:
    """Section of a page.

    Args:
        id: of its heading, which the table of contents leads to.
        title: heading.
        blocks: content.
        lead: a sentence below the heading.
    """

    id: str
    title: str
    blocks: Sequence[Html]
    lead: str = ""


@dataclass(frozen=True)
class Header:
    """Top of a page.

    Args:
        above: small line above the title, such as the name of a run.
        title: heading of the page.
        value: main number, in large type; empty: none.
        label: of that number.
        facts: names and values.
    """

    above: str
    title: str
    value: str = ""
    label: str = ""
    facts: Sequence[tuple[str, object]] = ()


def render_head(policy: str, title: str, style: str) -> Html:
    """Return the head of a page that opens from disk: its content policy, title and style."""
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content=f"Darkroom {__version__}"),
        element("title", title),
        element("style", Html(style)),
    )


def render_page(header: Header, sections: Sequence[Section]) -> str:
    """Return a page as HTML; style and script are inside."""
    head = render_head(_POLICY, f"{header.title}, {header.above}", read_resource("style.css"))
    contents = element(
        "nav",
        element("ul", *(element("li", link(one.title, f"#{one.id}")) for one in sections)),
        aria_label="Contents",
    )
    main = element("main", _header_html(header), *map(_section_html, sections))
    script = element("script", Html(read_resource("script.js")))
    body = element("body", contents, main, script)
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def write_page(path: Path, header: Header, sections: Sequence[Section]) -> None:
    """Write a page; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(render_page(header, sections), encoding="utf-8")
    temporary.replace(path)


def read_resource(name: str) -> str:
    """Return the text of a style sheet or script of the reports."""
    return files("darkroom.report").joinpath(name).read_text(encoding="utf-8")


def _header_html(header: Header) -> Html:
    number = element("p", element("b", header.value), element("span", header.label), class_="main-number")
    return element(
        "header",
        element("p", header.above, class_="above"),
        element("h1", header.title),
        number if header.value else "",
        facts(header.facts) if header.facts else "",
    )


def _section_html(section: Section) -> Html:
    lead = element("p", section.lead, class_="lead") if section.lead else ""
    heading = element("h2", section.title, id=section.id)
    return element("section", heading, lead, join(map(escape, section.blocks)), aria_labelledby=section.id)
