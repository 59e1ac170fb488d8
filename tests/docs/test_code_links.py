"""Links from the docs to lines of code."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs/build_hooks"))
from code_links import MovedTarget, Section, find_line, find_links, find_sections  # noqa: E402 (hooks of mkdocs)
from whole_options import keep_words  # noqa: E402

PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_code_has_a_target(page: Path) -> None:
    for path, name, words in find_links(page.read_text(encoding="utf-8")):
        assert find_line(path, name, words) >= 1


def test_link_finds_words_within_a_definition() -> None:
    path = "docs/build_hooks/code_links.py"
    source = (ROOT / path).read_text().split("\n")
    assert source[find_line(path, "find_line", "scope = found") - 1].strip() == "scope = found"
    assert source[find_line(path, "MovedTarget") - 1].startswith("class MovedTarget")


@pytest.mark.parametrize(
    ("path", "name", "words"), [("gone.py", None, None), ("README.md", None, "no such words"), (__file__, "gone", None)]
)
def test_moved_target_raises(path: str, name: str | None, words: str | None) -> None:
    with pytest.raises(MovedTarget):
        find_line(path, name, words)


def test_sections_that_link_to_code_are_found() -> None:
    page = """# Page

[a](<code:a.py>)

```bash
# not a heading
```

## One & two

[a](<code:a.py#f>), [b](<code:b.py>)

### Three {#third}

| [b](<code:b.py>) |
"""
    pytest.importorskip("markdown", reason="make docs installs it")
    start, first, second = Section("Page", ""), Section("One & two", "one-two"), Section("Three", "third")
    assert list(find_sections(page)) == [("a.py", start), ("a.py", first), ("b.py", first), ("b.py", second)]


def test_options_in_inline_code_are_kept_whole() -> None:
    html = "<pre><code><a></a>--a b</code></pre> well-known <code>--data.root my-data x</code>"
    whole = '<span class="whole">--data.root</span> <span class="whole">my-data</span> x'
    assert keep_words(html) == f"<pre><code><a></a>--a b</code></pre> well-known <code>{whole}</code>"
    assert keep_words(long := f"<code>--{'x' * 40}</code>") == long
