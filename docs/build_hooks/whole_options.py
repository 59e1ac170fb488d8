"""Keep words with hyphens, such as options of the command line, in one line of a table: browsers break after a hyphen."""

import re
from typing import Any

_CELL = re.compile(r"<td\b[^>]*>.*?</td>", re.DOTALL)
_CODE = re.compile(r"(<code>)([^<]*-[^<]*)(</code>)")
_WORD = re.compile(r"[^\s-]*-\S*")


def keep_words(html: str) -> str:
    """Wrap each word with a hyphen in the code of a table into a span, which the stylesheet does not break."""

    def mark(code: re.Match) -> str:
        return code[1] + _WORD.sub(r'<span class="whole">\g<0></span>', code[2]) + code[3]

    return _CELL.sub(lambda cell: _CODE.sub(mark, cell[0]), html)


def on_page_content(html: str, **_: Any) -> str:
    """Keep the words of each table of a page."""
    return keep_words(html)
