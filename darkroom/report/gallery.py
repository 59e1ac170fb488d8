"""Galleries of a page: images with keys, which the numbers of the page lead to."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from darkroom.report.markup import Html, element, join, link
from darkroom.report.table import Cell, Target, Value

_FIRST = {1: 30, 2: 18, 3: 10, 4: 10}  # samples that are shown at first, by the number of images side by side
_PIXELATED = 128  # pixels of the longer side up to which an enlarged image shows its pixels


@dataclass(frozen=True)
class Shown:
    """Image of a gallery.

    Args:
        source: data URI.
        name: such as ``error map``, written below if there are several.
        width, height: in pixels.
    """

    source: str
    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Item:
    """Sample of a gallery.

    Args:
        title: first line, such as the name of the file.
        text: second line.
        images: of the sample, side by side.
        keys: words without spaces by which the sample is found.
        address: of the original image.
    """

    title: str
    text: str
    images: Sequence[Shown]
    keys: frozenset[str]
    address: str | None = None


@dataclass
class Gallery:
    """Samples of a page, worst first.

    Args:
        id: of the element.
        groups: labels of keys that have a button, by key.
    """

    id: str
    groups: dict[str, str] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        """Number of samples by key."""
        return Counter(key for item in self.items for key in item.keys)

    def cell(
        self, value: Value, key: str, label: str, known: Iterable[str], heat: float = 0.0, wrong: bool = False
    ) -> Cell:
        """Return a cell that leads to the samples with a key, if there are any among the ``known`` ones."""
        target = Target(self.id, key, label) if key in known else None
        return Cell(value, target=target, heat=heat, wrong=wrong)

    def html(self) -> Html:
        """Return the gallery; its buttons appear if the page may run its script."""
        counts = self.counts
        buttons = [
            element("button", f"{label} ", element("span", count), type="button", data_key=key, data_label=label)
            for key, label in self.groups.items()
            if (count := counts[key])
        ]
        side_by_side = max((len(item.images) for item in self.items), default=1)
        everything = element("button", "all ", element("span", len(self.items)), type="button", aria_pressed="true")
        chosen = element("p", everything, *buttons, class_="groups", hidden=True)
        return element(
            "div",
            chosen,
            element("p", class_="status", aria_live="polite", hidden=True),
            element("ul", *map(_item_html, self.items), class_=f"items of-{min(4, side_by_side)}"),
            element("button", "Show all", type="button", class_="more", hidden=True),
            class_="gallery",
            id=self.id,
            data_first=_FIRST[min(4, side_by_side)],
        )


def _item_html(item: Item) -> Html:
    many = len(item.images) > 1
    shown = [
        element(
            "span",
            _image_html(one, item.title),
            element("small", one.name) if many else "",
        )
        for one in item.images
    ]
    title: object = link(item.title, item.address) if item.address else item.title
    text = element("figcaption", element("strong", title), element("span", item.text))
    return element(
        "li",
        element("figure", element("div", join(shown), class_="images"), text),
        data_keys=" ".join(sorted(item.keys)),
    )


def _image_html(image: Shown, title: str) -> Html:
    return element(
        "img",
        src=image.source,
        alt=f"{title}: {image.name}" if image.name else title,
        width=image.width,
        height=image.height,
        decoding="async",
        class_="pixels" if max(image.width, image.height) <= _PIXELATED else None,
    )
