"""HTML elements; text is escaped, and only ``Html`` is not."""

import html
from collections.abc import Iterable


class Html(str):
    """HTML, which is not escaped again."""

    __slots__ = ()


def escape(value: object) -> Html:
    """Return text as HTML; HTML is returned as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[object]) -> Html:
    """Return the parts one after another; text is escaped."""
    return Html("".join(map(escape, parts)))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """Return an HTML element.

    Args:
        tag: such as ``p``.
        children: text, which is escaped, or HTML.
        attributes: ``data_key`` is ``data-key``, ``class_`` is ``class``; True: without value; None and False: absent.
    """
    written = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        written.append(f" {name}" if value is True else f' {name}="{html.escape(str(value))}"')
    start = f"<{tag}{''.join(written)}>"
    return Html(start if tag in ("img", "input", "meta") else f"{start}{join(children)}</{tag}>")


def link(text: object, address: str, **attributes: object) -> Html:
    """Return a link."""
    return element("a", text, href=address, **attributes)


def paragraph(*children: object, class_: str | None = None) -> Html:
    """Return a paragraph."""
    return element("p", *children, class_=class_)


def bullet_list(items: Iterable[object]) -> Html:
    """Return a list with bullets."""
    return element("ul", *(element("li", item) for item in items))


def facts(pairs: Iterable[tuple[str, object]], class_: str = "facts") -> Html:
    """Return names with their values, as a description list."""
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs), class_=class_
    )


def folded(summary: str, *children: object) -> Html:
    """Return content that is shown after a click on its summary."""
    return element("details", element("summary", summary), *children)
