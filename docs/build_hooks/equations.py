"""Render the equations of a page as MathML, which browsers show without scripts, fonts or a network."""

import re
from html import unescape
from typing import Any

_MATH = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Replace each TeX formula that arithmatex has marked; an unknown command stops the build."""
    from latex2mathml.converter import convert

    def render(match: re.Match) -> str:
        tag, tex = match[1], unescape(match[2]).strip()
        block = tag == "div"
        tex = tex.removeprefix("\\[" if block else "\\(").removesuffix("\\]" if block else "\\)").strip()
        mathml = convert(tex, display="block" if block else "inline")
        if unknown := re.findall(r"<mi>\\\w+</mi>", mathml):
            raise ValueError(f"equation {tex!r}: latex2mathml does not know {', '.join(unknown)}")
        return f'<{tag} class="equation">{mathml}</{tag}>'

    return _MATH.sub(render, html)
