"""Pages of reports, read back: tables, links, images and requests."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

_VOID = {"meta", "img", "input", "br"}


@dataclass
class Page(HTMLParser):
    """Page that was parsed; raises AssertionError if an element is not closed.

    Args:
        path: of the file.
    """

    path: Path
    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    leads: list[tuple[str, str]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(self.path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in _VOID:
            self._open.append(tag)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(values["href"] or "")
            if "data-key" in values:
                self.leads.append((str(values["href"]), str(values["data-key"])))
        if tag == "img":
            self.images.append(values["src"] or "")
        if tag == "table":
            self._rows = self.tables.setdefault((values.get("id") or "").removeprefix("table-"), [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        self.keys.update((values.get("data-keys") or "").split())

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "script"):
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data

    def column(self, table: str, name: str) -> dict[str, str]:
        """Return a column of a table by the first cell of the row."""
        head, *rows = self.tables[table]
        return {row[0]: row[head.index(name)] for row in rows}

    def broken_links(self) -> list[str]:
        """Return links to ids or files that do not exist."""
        inside = {f"#{name}" for name in self.ids}
        return [
            one
            for one in self.links
            if (one not in inside if one.startswith("#") else not (self.path.parent / one).is_file())
        ]

    def requests(self) -> list[str]:
        """Return what a browser would load from elsewhere than the page."""
        source = self.path.read_text(encoding="utf-8")
        loads = re.findall(r"(?:src|srcset)=\"((?!data:)[^\"]*)\"|@import|url\((?!data:)", source)
        return loads + re.findall(r"<(?:link|iframe|object|embed)\b", source)
