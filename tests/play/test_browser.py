"""Playgrounds in headless Chromium, opened from disk: results equal those of ``predict``, and nothing is requested."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from darkroom.export.formats.files import require_onnx
from darkroom.export.outputs import TASKS, name_detections
from darkroom.lightning_modules.diffusion.imagen.text_to_image import TextToImage
from tests.browser import needs_browser
from tests.play.devtools import Page, open_browser
from tests.play.pages import fit_tiny, needs_runtime, predict_examples, write_page

pytestmark = [pytest.mark.slow, needs_browser, needs_runtime]

TOLERANCE = 1e-4  # of logits, probabilities, scores and values, as in darkroom export
LARGEST = 25e6  # bytes of a page
MOST_SECONDS = 10.0  # of processor time until the first result, which does not depend on other programs
_UNNAMED = "[...document.querySelectorAll('canvas.picture, img')].filter(one => !(one.ariaLabel || one.alt)).length"


@pytest.fixture
def page() -> Iterator[Page]:
    """Empty page of a browser."""
    require_onnx()
    with open_browser() as opened:
        yield opened


def open_page(page: Page, path: Path, name: str) -> None:
    """Open a playground, wait for its first result, and print the time until then."""
    before = page.processor_time()
    page.open(path.as_uri())
    page.run("new Promise(done => { const look = () => window.darkroom ? done() : setTimeout(look, 50); look(); })")
    first = page.run("darkroom.ready.then(({ first }) => first / 1000)")
    used = page.processor_time() - before
    print(f"{name}: first result after {first:.1f} s, {used:.1f} s of processor time")
    assert used <= MOST_SECONDS


def results(page: Page, *words: Any) -> dict[str, np.ndarray]:
    """Return what the page computes, by name."""
    arguments = ", ".join(map(json.dumps, words))
    return {name: np.array(value) for name, value in page.run(f"darkroom.run({arguments})").items()}


def require_quiet(page: Page, path: Path) -> None:
    """Assert that a page has no error, asked for nothing, fits a phone, and names its images."""
    assert page.problems == []
    assert set(page.requests) == {path.as_uri()}
    assert path.stat().st_size <= LARGEST
    for width in (1280, 375):
        page.resize(width)
        assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(_UNNAMED) == 0
    assert " ms" in page.run("document.querySelector('.status').textContent")


def test_segmentation(darkroom: Callable, page: Page) -> None:
    path, trained, data = write_page(fit_tiny(darkroom, "segmentation/unet.yaml"))
    open_page(page, path, "unet")
    for index, expected in enumerate(predict_examples(trained, data)):
        mask = expected[0].numpy()
        assert (results(page, index)["mask"].reshape(mask.shape) == mask).mean() >= 0.999
    page.run("document.querySelector('.stage').focus()")
    for _ in range(20):
        page.press("ArrowRight")
    assert page.run("document.activeElement.className") == "picture stage"
    require_quiet(page, path)
    page.run("new Promise(done => { Promise.reject(new Error('no memory')); setTimeout(done, 100); })")
    assert page.run("document.querySelector('.status').textContent") == "The computation failed: no memory"


@pytest.mark.parametrize("config", ["classification/vgg.yaml", "classification/kinds_yolo.yaml"])
def test_classification(darkroom: Callable, page: Page, config: str) -> None:
    path, trained, data = write_page(fit_tiny(darkroom, config))
    open_page(page, path, config)
    for index, expected in enumerate(predict_examples(trained, data)):
        assert np.abs(results(page, index)["probabilities"] - expected[0].numpy()).max() <= TOLERANCE
    require_quiet(page, path)


@pytest.mark.parametrize("name", ["ssd", "yolo", "faster_rcnn", "mask_rcnn", "fast_rcnn"])
def test_detection(darkroom: Callable, page: Page, name: str) -> None:
    path, trained, data = write_page(fit_tiny(darkroom, f"detection/{name}.yaml"))
    open_page(page, path, name)
    for index, expected in enumerate(predict_examples(trained, data)):
        found = results(page, index)
        count = len(found["scores"])
        detections = {
            "boxes": found["boxes"].reshape(count, 4),
            "scores": found["scores"],
            "labels": found["labels"],
            "image_index": np.zeros(count, int),
        }
        named = name_detections(expected)
        areas = named.pop("masks", np.zeros((count, 1, 1))).sum((1, 2))
        agreement = TASKS["detection"].compare(detections, named, data.image_shape[1:])
        assert agreement.fraction >= 0.99, agreement
        assert agreement.largest <= 1e-3
        assert abs(found["areas"].sum() - areas.sum()) <= 1e-3 * max(1, areas.sum())
    require_quiet(page, path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("autoencoder", []),
        ("vae", []),
        ("conditional_vae", []),
        pytest.param("conditional_vae", ["--model.code_components", "2"], id="mixture of every class"),
    ],
)
def test_autoencoding(darkroom: Callable, page: Page, name: str, options: list[str]) -> None:
    path, trained, data = write_page(fit_tiny(darkroom, f"autoencoding/{name}.yaml", *options))
    open_page(page, path, name)
    labelled = {"label": 1} if name == "conditional_vae" else {}
    require_samples(page, trained.model, labelled)
    labels = [int(batch["label"]) for batch in data.test_dataloader()] if labelled else []
    for index, expected in enumerate(predict_examples(trained, data)):
        found = results(page, {"example": index} | ({"label": labels[index]} if labels else {}))["values"]
        assert np.abs(found - expected[0].flatten().numpy()).max() <= TOLERANCE
    require_quiet(page, path)


@pytest.mark.parametrize(
    "name", ["ddpm", "improved_ddpm", "ddpm_conditional", "rectified_flow", "latent/latent_diffusion"]
)
def test_diffusion(darkroom: Callable, page: Page, name: str) -> None:
    path, trained, _ = write_page(fit_tiny(darkroom, f"diffusion/{name}.yaml"))
    open_page(page, path, name)
    conditional = name in ("ddpm_conditional", "latent/latent_diffusion")
    require_samples(page, trained.model, {"label": 1} if conditional else {})
    require_shown_sample(page, trained.model, {"label": 0} if conditional else {})
    forward = page.run("document.querySelectorAll(\"section[aria-label='Forward process']\").length")
    assert forward == (0 if name.startswith("latent") else 1)
    require_quiet(page, path)


def test_captions(darkroom: Callable, page: Page) -> None:
    path, trained, data = write_page(fit_tiny(darkroom, "diffusion/imagen_relations.yaml"))
    model = trained.model
    assert isinstance(model, TextToImage)
    open_page(page, path, "imagen")
    caption = next(iter(data.test_dataloader()))["caption"][0]
    require_samples(page, model, {"caption": caption})
    with torch.no_grad():
        images, (words,), (expected,) = model.word_maps([caption], generator=[torch.Generator().manual_seed(5)])
    found = results(page, {"seed": 5, "caption": caption, "weight": 1})
    assert np.abs(found["values"] - images[0].flatten().numpy()).max() <= TOLERANCE
    assert np.abs(found["maps"] - expected.flatten(1).numpy()).max() <= TOLERANCE
    assert page.run("[...document.querySelectorAll('.words figcaption')].map(one => one.textContent)") == words
    require_samples(page, model, {"caption": ""})
    require_quiet(page, path)


def test_generator(darkroom: Callable, page: Page) -> None:
    path, trained, _ = write_page(fit_tiny(darkroom, "adversarial/dcgan.yaml"))
    open_page(page, path, "dcgan")
    require_samples(page, trained.model, {})
    require_quiet(page, path)


# Chooses the sampler "as predict" and the seed 5, and returns the pixels of the state at its end.
_AS_PREDICT = """
(async () => {
  const part = document.querySelector("section[aria-label='Denoising 1']");
  const [choice, time] = [part.querySelector("select"), part.querySelector(".note")];
  choice.value = [...choice.options].findIndex(({ text }) => text === "as predict");
  choice.dispatchEvent(new Event("change"));
  const seed = document.querySelector("section[aria-label='Settings'] input[type='range']");
  seed.value = 5;
  seed.dispatchEvent(new Event("input"));
  time.textContent = "";
  while (!time.textContent) await new Promise((done) => setTimeout(done, 50));
  const canvas = part.querySelector("canvas");
  return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
})()
"""


@torch.no_grad()
def require_shown_sample(page: Page, model: Any, labelled: dict[str, int]) -> None:
    """Assert that the sampler "as predict" shows the image of ``predict``."""
    batch = {"seed": torch.tensor([5])} | {name: torch.tensor([value]) for name, value in labelled.items()}
    expected = (model.predict_step(batch, 0)[0].permute(1, 2, 0).numpy() + 1) * 127.5
    shown = np.array(page.run(_AS_PREDICT)).reshape(*expected.shape[:2], 4)[..., :3]
    assert np.abs(shown - expected).max() <= 1


@torch.no_grad()
def require_samples(page: Page, model: Any, condition: dict[str, Any]) -> None:
    """Assert that seeds give the images of ``predict``."""
    for seed in (0, 5):
        batch = {"seed": torch.tensor([seed])}
        for name, value in condition.items():
            batch[name] = [value] if isinstance(value, str) else torch.tensor([value])
        expected = model.predict_step(batch, 0)[0].flatten().numpy()
        assert np.abs(results(page, {"seed": seed, **condition})["values"] - expected).max() <= TOLERANCE
