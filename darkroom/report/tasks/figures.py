"""Figures that callbacks wrote, in any run."""

import re
from pathlib import Path

from PIL import Image

from darkroom.report.markup import Html, element
from darkroom.report.outputs import data_uri, figure_html
from darkroom.report.page import Section
from darkroom.report.samples import read_image, show

_LARGEST = 1_500_000  # bytes of a figure that the page contains as it is
_REDUCED = 1600  # pixels of the longer side of larger figures
# Heading and sentence of the figures by the name of their folder.
_FIGURES = {
    "reconstructions": (
        "Reconstructions",
        "Input, reconstruction and their difference, which is black where they agree.",
    ),
    "samples": ("Samples", "Images that the model generated."),
    "latents": ("Latent space", "Codes of validation images, coloured by class."),
    "manifold": ("Manifold", "Images decoded from a grid of codes."),
    "traversals": ("Traversals", "One latent variable changes from left to right, the others are constant."),
    "interpolations": ("Interpolations", "Images decoded from codes between those of two images."),
    "denoising": ("Denoising", "Samples from noise, on the left, to the image, on the right."),
    "forward_process": ("Forward process", "Images with more and more noise."),
    "guidance": ("Guidance", "The same noise with more and more guidance."),
    "loss_by_timestep": ("Loss by timestep", "Mean loss at each noise level; the newest curve has the full colour."),
    "attention": ("Attention", "Pixels that attend to each word of the prompt."),
    "prompts": ("Prompts", "Images generated from prompts."),
    "stages": ("Stages of the cascade", "The output of each stage."),
    "upsampling": ("Upsampling", "Input, output and truth of the upsampling stage."),
    "detections": ("Detections", "Truth, detections and mistakes."),
    "masks": ("Masks", "Truth, prediction and errors."),
    "worst": ("Worst images", "Images with the highest loss, with Grad-CAM."),
}


def newest_figures(run: Path) -> dict[str, Path]:
    """Return the newest figure of every kind, by the name of its folder; that of the test comes before others."""
    newest: dict[str, Path] = {}
    for folder in sorted(path for path in (run / "figures").glob("*") if path.is_dir()):
        paths = sorted(path for path in folder.glob("*.png") if path.stem.isdigit())
        if paths:
            newest[folder.name] = paths[-1]
    stages = re.compile(r"^(?:train|val)_")
    return {
        name: path
        for name, path in newest.items()
        if not stages.match(name) or f"test_{stages.sub('', name)}" not in newest
    }


def describe_figure(name: str, path: Path) -> tuple[str, str]:
    """Return heading and caption of a figure.

    Args:
        name: of its folder, such as ``test_masks``.
        path: its file, whose name is the step.
    """
    stage, _, kind = name.partition("_")
    kind = kind if stage in ("train", "val", "test") and kind else name
    title, sentence = _FIGURES.get(kind, (kind.replace("_", " ").capitalize(), ""))
    of = {"test": "of the test", "val": "of validation"}.get(stage, "")
    return title, " ".join(filter(None, [sentence, f"Step {int(path.stem):,}", of])).strip() + "."


def figure_sections(run: Path, notes: list[str]) -> list[Section]:
    """Return a section with the newest figure of every kind that the run has; figures that are damaged are noted."""
    blocks: list[Html] = []
    for name, path in newest_figures(run).items():
        title, caption = describe_figure(name, path)
        try:
            source = _source(path)
        except (OSError, ValueError) as error:
            notes.append(f"The figure {path.relative_to(run)} is left out, because it cannot be read ({error}).")
            continue
        files = [
            (other.suffix[1:].upper(), f"../{other.relative_to(run).as_posix()}")
            for other in [
                *(path.with_suffix(suffix) for suffix in (".pdf", ".svg", ".png")),
                *path.parent.glob("*.gif"),
            ]
            if other.is_file()
        ]
        blocks += [element("h3", title), figure_html(source, caption, files, "plot wide")]
    return [Section("figures", "Figures", blocks, "The newest figure of every kind.")] if blocks else []


def _source(path: Path) -> str:
    """Return a figure as a data URI; a large one is reduced.

    Raises:
        OSError, ValueError: the file is damaged.
    """
    content = path.read_bytes()
    with Image.open(path) as image:
        image.load()
    if len(content) <= _LARGEST:
        return data_uri(content, "png")
    return show(read_image(path, _REDUCED)).source
