"""Report of an autoencoder: worst images and distribution of the reconstruction error."""

import numpy as np

from darkroom.callbacks.plotting.bars import histogram
from darkroom.report.gallery import Gallery, Item
from darkroom.report.markup import paragraph
from darkroom.report.outputs import Outputs, figures
from darkroom.report.page import Section
from darkroom.report.samples import address, kept_samples, read_image, sample_titles, select, show
from darkroom.report.table import Table
from darkroom.runtime.records.results import Results, image_path
from darkroom.runtime.records.tables import numbers

_MOST = 60  # samples of the gallery


def sections(results: Results, outputs: Outputs) -> list[Section]:
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
