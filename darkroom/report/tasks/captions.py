"""Report of a text-to-image model: wrong images, accuracy by attribute and form, and objects held out of training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from darkroom.report.gallery import Gallery, Item
from darkroom.report.markup import paragraph
from darkroom.report.outputs import Outputs
from darkroom.report.page import Section
from darkroom.report.samples import address, kept_samples, read_image, sample_titles, select, show
from darkroom.report.table import Cell, Row, Table
from darkroom.runtime.records.results import Results, image_path
from darkroom.runtime.records.tables import numbers

_GALLERY = "images"
_MOST = 60  # samples of the gallery
_NAMED = 3  # wrong attributes below an image
_SEPARATOR = "; "  # of the names of held-out objects


@dataclass(frozen=True)
class Judgements:
    """Judged samples of a test, read from ``samples.csv``.

    Args:
        results: of the test.
    """

    results: Results

    @property
    def table(self) -> Mapping[str, list[str]]:
        """Cells by column."""
        return self.results.tables["samples"]

    @cached_property
    def right(self) -> np.ndarray:
        """1 for samples with all attributes of their caption, else 0, float (N,)."""
        return numbers(self.table["right"])

    @cached_property
    def attributes(self) -> dict[str, np.ndarray]:
        """1 or 0 for samples by attribute, float (N,), NaN where a caption does not state it."""
        columns = [name for name in self.table if name.startswith("right/")]
        return {name.removeprefix("right/"): numbers(self.table[name]) for name in columns}

    @cached_property
    def forms(self) -> dict[str, np.ndarray]:
        """Mask of the samples of each form, bool (N,); empty without forms."""
        forms = np.array(self.table.get("form", []))
        return {form: forms == form for form in sorted(set(forms.tolist()))}

    @cached_property
    def held_out(self) -> np.ndarray:
        """Mask of the captions with an object that training never shows, bool (N,)."""
        return numbers(self.table["held_out"]) > 0 if "held_out" in self.table else np.zeros(len(self.right), bool)

    @cached_property
    def objects(self) -> dict[str, np.ndarray]:
        """Mask of the captions with each held-out object, bool (N,), by its name."""
        named = [cell.split(_SEPARATOR) if cell else [] for cell in self.table.get("held_out_objects", [])]
        names = sorted({name for cells in named for name in cells})
        return {name: np.array([name in cells for cells in named]) for name in names}

    def wrong(self, row: int) -> list[str]:
        """Return the wrong attributes of a sample, such as "colour: red instead of blue"."""
        return [self._describe(name, row) for name, column in self.attributes.items() if column[row] == 0]

    def _describe(self, attribute: str, row: int) -> str:
        asked, judged = (self.table.get(f"{what}/{attribute}", ()) for what in ("asked", "judged"))
        return f"{attribute}: {judged[row]} instead of {asked[row]}" if asked and judged else attribute


def shorten(wrong: Sequence[str]) -> str:
    """Return the first of a sample's wrong attributes as one line."""
    more = [f"{len(wrong) - _NAMED} more"] if len(wrong) > _NAMED else []
    return ", ".join([*wrong[:_NAMED], *more])


def sections(results: Results, outputs: Outputs) -> list[Section]:
    """Return the captions whose image is wrong, accuracy by attribute and form, and that of held-out objects."""
    judged = Judgements(results)
    gallery = _gallery(judged)
    found = [_failure_section(judged, outputs, gallery), _attribute_section(judged, outputs, gallery)]
    if judged.forms:
        rows = [
            _accuracy_row(judged, form or "none", mask, gallery, _key("form", form))
            for form, mask in judged.forms.items()
        ]
        columns = ("form", *_columns(judged))
        table = Table("forms", columns, rows, "Accuracy by the form of the caption: all attributes, and each of them.")
        found.append(Section("forms", "Form of the caption", [outputs.table(table)]))
    if judged.held_out.any():
        found.append(_held_out_section(judged, outputs, gallery))
    return found


def _failure_section(judged: Judgements, outputs: Outputs, gallery: Gallery) -> Section:
    titles = sample_titles(judged.results)
    rows: list[Row] = [[titles[row], ", ".join(judged.wrong(row))] for row in _order(judged) if not judged.right[row]]
    table = Table("wrong_captions", ("caption", "wrong attributes"), rows, "Captions whose image is wrong.")
    shown = gallery.html() if gallery.items else paragraph("The test kept no images.", class_="note")
    lead = f"{len(rows):,} of {len(judged.right):,} captions. Those with the most wrong attributes come first."
    return Section("failures", "Wrong images", [shown, outputs.table(table)], lead)


def _attribute_section(judged: Judgements, outputs: Outputs, gallery: Gallery) -> Section:
    known = gallery.counts
    rows: list[Row] = [["all", len(judged.right), int((judged.right == 0).sum()), _mean(judged.right)]]
    for name, values in judged.attributes.items():
        wrong = gallery.cell(int((values == 0).sum()), _key("wrong", name), f"wrong {name}", known)
        rows.append([name, int(np.isfinite(values).sum()), wrong, _mean(values)])
    columns = ("attribute", "captions", "wrong", "accuracy")
    caption = "Accuracy by attribute, of the captions that state it; all: no attribute is wrong."
    return Section("attributes", "Attributes", [outputs.table(Table("attributes", columns, rows, caption))])


def _held_out_section(judged: Judgements, outputs: Outputs, gallery: Gallery) -> Section:
    rows = [
        _accuracy_row(judged, "all, seen in training", ~judged.held_out, gallery, _key("seen")),
        _accuracy_row(judged, "all, held out", judged.held_out, gallery, _key("held-out")),
    ]
    rows += [_accuracy_row(judged, name, mask, gallery, _key("object", name)) for name, mask in judged.objects.items()]
    caption = "Accuracy by the objects of the caption: all attributes, and each of them."
    table = Table("held_out", ("objects", *_columns(judged)), rows, caption)
    lead = "Training shows the attributes of these objects, but never together."
    return Section("held-out", "Objects held out of training", [outputs.table(table)], lead)


def _columns(judged: Judgements) -> list[str]:
    return ["captions", "accuracy", *judged.attributes]


def _accuracy_row(judged: Judgements, name: str, mask: np.ndarray, gallery: Gallery, key: str) -> Row:
    count: Cell = gallery.cell(int(mask.sum()), key, name, gallery.counts)
    return [name, count, _mean(judged.right[mask]), *(_mean(values[mask]) for values in judged.attributes.values())]


def _mean(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _order(judged: Judgements) -> list[int]:
    """Return the rows by descending number of wrong attributes, and rows without a wrong one last."""
    count = np.zeros(len(judged.right))
    for values in judged.attributes.values():
        count += values == 0
    return np.argsort(np.where(judged.right == 0, -np.maximum(count, 1), 0), kind="stable").tolist()


def _key(kind: str, name: str = "") -> str:
    """Return the key of samples in the gallery, without spaces."""
    return "-".join([kind, *name.split()])


def _keys(judged: Judgements, row: int) -> list[str]:
    keys = ["right" if judged.right[row] else "wrong", _key("held-out" if judged.held_out[row] else "seen")]
    keys += [_key("wrong", name) for name, values in judged.attributes.items() if values[row] == 0]
    groups: Sequence[tuple[str, dict[str, np.ndarray]]] = [("form", judged.forms), ("object", judged.objects)]
    return keys + [_key(kind, name) for kind, masks in groups for name, mask in masks.items() if mask[row]]


def _gallery(judged: Judgements) -> Gallery:
    samples, kept = [int(sample) for sample in judged.table["sample"]], kept_samples(judged.results)
    titles = sample_titles(judged.results)
    rows = {samples[row]: row for row in _order(judged) if samples[row] in kept}
    keys = {sample: _keys(judged, row) for sample, row in rows.items()}
    gallery = Gallery(_GALLERY, {"wrong": "wrong", "right": "right"})
    for sample in select(keys, _MOST):
        image = show(read_image(image_path(judged.results.folder, sample)))
        text = shorten(judged.wrong(rows[sample])) or "right"
        title = titles[rows[sample]]
        gallery.items.append(Item(title, text, [image], frozenset(keys[sample]), address(judged.results, sample)))
    return gallery
