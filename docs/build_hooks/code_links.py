"""Link docs to lines of code by name, so that the links survive edits.

``[text](<code:PATH#NAME@WORDS>)`` points to the definition NAME in the file PATH of the repository, or to the first line
of it that has WORDS. The built site has a page of every linked file, so that the links work offline, and each such page
links back to the sections that link to it. A target that has moved stops the build; tests/docs/test_code_links.py finds
it without one.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"<code:(?P<path>[^#>]+)(?:#(?P<name>[^@>]+))?(?:@(?P<words>[^>]+))?>")
_FENCED = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^(#+) +(.+?)(?: *\{#([\w-]+)\})?$")


class MovedTarget(ValueError):
    """A link to code whose file, name or words are missing."""


@cache
def _source(path: str) -> str:
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except OSError as error:
        raise MovedTarget(f"{path} does not exist") from error


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse(_source(path))


def _find(scope: ast.AST, name: str) -> ast.stmt | None:
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return node
    return None


def find_line(path: str, name: str | None = None, words: str | None = None) -> int:
    """Return the line, from 1, of a definition or of words within it.

    Args:
        path: of the file, from the root of the repository.
        name: of the class, function or constant; dots lead inwards ("UNet.training_step"). Default: the whole file.
        words: text of the line.

    Raises:
        MovedTarget: if the file, the name or the line is missing.
    """
    lines = _source(path).split("\n")
    first, last = 1, len(lines)
    if name:
        scope: ast.AST = _tree(path)
        for part in name.split("."):
            found = _find(scope, part)
            if found is None:
                raise MovedTarget(f"{path} has no {name}")
            scope = found
        first, last = found.lineno, found.end_lineno or found.lineno
    if not words:
        return first
    for number in range(first, last + 1):
        if words in lines[number - 1]:
            return number
    raise MovedTarget(f"{name or path} in {path} has no line with {words!r}")


def find_links(markdown: str) -> list[tuple[str, str | None, str | None]]:
    """Return path, name and words of each link to code."""
    return [(match["path"], match["name"], match["words"]) for match in LINK.finditer(markdown)]


class Section(NamedTuple):
    """Section of a page.

    Args:
        title: its heading.
        anchor: id of the heading in the built page; empty for the page itself.
    """

    title: str
    anchor: str


def find_sections(markdown: str) -> Iterator[tuple[str, Section]]:
    """Yield path and section of each link to code; text in front of the first subheading belongs to the page itself."""
    from markdown.extensions.toc import slugify

    section = Section("", "")
    for line in _FENCED.sub("", markdown).splitlines():
        if heading := _HEADING.match(line):
            marks, title, anchor = heading.groups()
            section = Section(title, "" if len(marks) == 1 else anchor or slugify(title, "-"))
        for path, _, _ in find_links(line):
            yield path, section


def _page_of(path: str) -> str:
    return f"source/{path}.md"


def _back_links(path: str, pages: dict[str, str]) -> str:
    """Return Markdown with a link to each section that links to a file.

    Args:
        path: of the file.
        pages: Markdown of all pages by their path in docs.
    """
    lines = []
    for uri, markdown in pages.items():
        sections = dict.fromkeys(section for linked, section in find_sections(markdown) if linked == path)
        if not sections:
            continue
        url = posixpath.relpath(uri, posixpath.dirname(_page_of(path)))
        headline = re.search(r"^# (.+)$", markdown, re.MULTILINE)
        within = " · ".join(f"[{title}]({url}#{anchor})" for title, anchor in sections if anchor)
        lines.append(f"- [{headline[1] if headline else uri}]({url})" + (f": {within}" if within else ""))
    return "\n".join(["Linked from:", "", *lines])


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add a page of every linked file."""
    from mkdocs.structure.files import File

    pages = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for path in sorted({path for page in pages.values() for path, _, _ in find_links(page)}):
        kind = {".py": "python", ".yaml": "yaml", ".js": "javascript"}.get(Path(path).suffix, "text")
        head = (
            f"---\nsearch:\n  exclude: true\nhide: [toc, navigation]\n---\n\n# {path}\n\n{_back_links(path, pages)}\n\n"
        )
        content = f'{head}````{kind} linenums="1"\n{_source(path)}\n````\n'
        files.append(File.generated(config, _page_of(path), content=content))
    return files


def on_page_content(html: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Resolve the links of a page to lines of the source pages."""

    def resolve(match: re.Match) -> str:
        path, name, words = re.fullmatch(r"([^#]+)(?:#([^@]+))?(?:@(.+))?", _unescape(match[1])).groups()
        line = find_line(path, name, words)
        target = files.src_uris[_page_of(path)]
        url = posixpath.relpath(target.url, posixpath.dirname(page.file.url) or ".")
        return f'href="{url}#__codelineno-0-{line}"'

    return re.sub(r'href="code:([^"]+)"', resolve, html)


def _unescape(text: str) -> str:
    from html import unescape
    from urllib.parse import unquote

    return unquote(unescape(text))
