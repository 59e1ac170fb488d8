"""A page that runs graphs: HTML with its script, onnxruntime-web, the graphs and their data inside."""

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom import __version__
from darkroom.play.bundle import bundle, read_static
from darkroom.play.runtime import PACKAGE, VERSION, Runtime
from darkroom.report.markup import Html, element, facts
from darkroom.report.page import read_resource, render_head

# The browser itself refuses every request; blob: is the script of onnxruntime-web, which has no address of its own.
_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Content:
    """Text, data and graphs of a page.

    Args:
        title: heading.
        above: line above it.
        facts: names and values below it.
        data: for the script, as JSON; ``kind`` selects the page.
        graphs: ONNX files by name.
    """

    title: str
    above: str
    facts: list[tuple[str, object]]
    data: Mapping[str, Any]
    graphs: Mapping[str, Path]


def render_page(content: Content, runtime: Runtime) -> str:
    """Return the page as HTML."""
    style = read_resource("style.css") + read_static("style.css")
    head = render_head(_POLICY, f"{content.title}, {content.above}", style)
    header = element(
        "header", element("p", content.above, class_="above"), element("h1", content.title), facts(content.facts)
    )
    footer = element(
        "footer",
        element(
            "p",
            f"The model runs in this page, by {PACKAGE} {VERSION} (Copyright Microsoft Corporation, MIT License). Nothing "
            f"is sent. Written by darkroom play {__version__}.",
        ),
    )
    text = json.dumps(content.data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = [
        element("script", Html(text), type="application/json", id="data"),
        _part("ort-script", runtime.script.read_bytes()),
        _part("ort-binary", runtime.binary.read_bytes()),
        *(_part(f"graph-{name}", path.read_bytes()) for name, path in content.graphs.items()),
        element("script", Html(bundle("main")), type="module"),
    ]
    body = element("body", header, element("main", element("div", id="play")), footer, *parts)
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def write_page(path: Path, content: Content, runtime: Runtime) -> None:
    """Write the page; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(render_page(content, runtime), encoding="utf-8")
    part.replace(path)


def _part(id: str, content: bytes) -> Html:
    """Return bytes as an element that the browser does not run, compressed as the script expects it."""
    text = base64.b64encode(gzip.compress(content, mtime=0)).decode()
    return element("script", Html(text), type="application/gzip", id=id)
