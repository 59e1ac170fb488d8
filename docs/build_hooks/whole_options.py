"""Keep words with hyphens, such as options of the command line, in one line: browsers break after a hyphen."""

import re
from typing import Any

_CODE = re.compile(r"(<code>)([^<]*-[^<]*)(</code>)")  # inline: a block has tags inside
_WORD = re.compile(r"(?<!\S)(?=\S*-)\S{2,36}(?!\S)")  # longer words would not fit on a phone


def keep_words(html: str) -> str:
    """Wrap each word with a hyphen in inline code into a span, which the stylesheet does not break."""

    def mark(code: re.Match) -> str:
        return code[1] + _WORD.sub(r'<span class="whole">\g<0></span>', code[2]) + code[3]

    return _CODE.sub(mark, html)


def on_page_content(html: str, **_: Any) -> str:
    """Keep the words of a page."""
    return keep_words(html)
