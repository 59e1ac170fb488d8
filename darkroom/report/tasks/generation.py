"""Report of captions and of autoencoders: worst images, accuracy by attribute and form, reconstruction errors."""

import numpy as np

from darkroom.callbacks.plotting.bars import histogram
from darkroom.report.gallery import Gallery, Item
from darkroom.report.markup import paragraph
from darkroom.report.outputs import Outputs, figures
from darkroom.report.page import Section
from darkroom.report.samples import address, kept_samples, read_image, sample_titles, select, show
from darkroom.report.table import Row, Table
from darkroom.runtime.records.results import Results, image_path
from darkroom.runtime.records.tables import numbers

_MOST = 60  # samples of the gallery


def caption_sections(results: Results, outputs: Outputs) -> list[Section]:
    """Return accuracy by attribute and form of captions, and the captions whose image is wrong."""
    table = results.tables["samples"]
    right = numbers(table["right"])
    rows: list[Row] = [["all", int(np.isfinite(right).sum()), _mean(right)]]
    for name in table:
        if name.startswith("right/"):
            values = numbers(table[name])
            rows.append([name.removeprefix("right/"), int(np.isfinite(values).sum()), _mean(values)])
    blocks = [outputs.table(Table("attributes", ("attribute", "captions", "accuracy"), rows, "Accuracy by attribute."))]
    if "form" in table:
        forms = np.array(table["form"])
        masks = {form: forms == form for form in sorted(set(forms.tolist()))}
        by_form: list[Row] = [[form or "none", int(mask.sum()), _mean(right[mask])] for form, mask in masks.items()]
        blocks.append(outputs.table(Table("forms", ("form", "captions", "accuracy"), by_form, "Accuracy by form.")))
    wrong = np.flatnonzero(right == 0).tolist()
    attributes = [name for name in table if name.startswith("right/")]
    by_attribute = {name.removeprefix("right/"): numbers(table[name]) for name in attributes}
    worst: list[Row] = []
    for row in wrong:
        names = [name for name, column in by_attribute.items() if column[row] == 0]
        worst.append([table["caption"][row], ", ".join(names)])
    gallery = _caption_gallery(results, right)
    failures = Table("wrong_captions", ("caption", "wrong attributes"), worst, "Captions whose image is wrong.")
    shown = [gallery.html()] if gallery.items else []
    return [
        Section(
            "failures", "Wrong images", [*shown, outputs.table(failures)], f"{len(wrong):,} of {len(right):,} captions."
        ),
        Section("attributes", "Accuracy by attribute", blocks),
    ]


def _mean(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _caption_gallery(results: Results, right: np.ndarray) -> Gallery:
    table = results.tables["samples"]
    samples, kept = numbers(table["sample"]).astype(int).tolist(), kept_samples(results)
    rows = [row for row in np.argsort(right, kind="stable").tolist() if samples[row] in kept]
    keys = {samples[row]: ["right" if right[row] else "wrong"] for row in rows}
    row_of = {samples[row]: row for row in rows}
    gallery = Gallery("images", {"wrong": "wrong", "right": "right"})
    for sample in select(keys, _MOST):
        image = show(read_image(image_path(results.folder, sample)))
        caption = table["caption"][row_of[sample]]
        gallery.items.append(Item(caption, "", [image], frozenset(keys[sample]), address(results, sample)))
    return gallery


def autoencoding_sections(results: Results, outputs: Outputs) -> list[Section]:
    """Return the images with the largest reconstruction error, and the distribution of the error."""
    table = results.tables["samples"]
    error, titles = numbers(table["error"]), sample_titles(results)
    samples, kept = numbers(table["sample"]).astype(int).tolist(), kept_samples(results)
    order = np.argsort(-np.nan_to_num(error, nan=np.inf), kind="stable").tolist()
    row_of = {samples[row]: row for row in order if samples[row] in kept}
    gallery = Gallery("images")
    for sample in select({one: ["image"] for one in row_of}, _MOST):
        row = row_of[sample]
        image = show(read_image(image_path(results.folder, sample)))
        text = f"error {error[row]:.4g}"
        gallery.items.append(Item(titles[row], text, [image], frozenset({"image"}), address(results, sample)))
    plot = histogram({"error": error}, axes=("squared error, summed over the image", "images"), width=outputs.width)
    rows = [[titles[row], float(error[row])] for row in order]
    return [
        Section(
            "failures",
            "Worst images",
            [gallery.html() if gallery.items else paragraph("The test kept no images.", class_="note")],
            "Images with the largest reconstruction error come first.",
        ),
        Section(
            "errors",
            "Reconstruction error",
            [
                figures(outputs.plot(plot, "errors", "Reconstruction error of the test images.")),
                outputs.table(Table("samples", ("image", "error"), rows, "Test images, the largest error first.")),
            ],
        ),
    ]
