"""Playgrounds in headless Chromium, opened from disk: results equal those of ``predict``, and nothing is requested."""

from pathlib import Path

import numpy as np
import pytest

from darkroom.export.formats.files import require_onnx
from tests.browser import needs_browser
from tests.devtools import Page, open_browser
from tests.export.methods import build_method
from tests.play.pages import needs_runtime, predict_example, write_page

pytestmark = [pytest.mark.slow, needs_browser, needs_runtime]

TOLERANCE = 1e-4  # of logits, probabilities and scores, as in darkroom export
LARGEST = 25e6  # bytes of a page


def open_page(page: Page, path: Path) -> None:
    """Open a playground, and wait for its first result."""
    page.open(path.as_uri())
    page.run("new Promise(done => { const look = () => window.darkroom ? done() : setTimeout(look, 50); look(); })")
    page.run("darkroom.ready.then(() => true)")


def require_quiet(page: Page, path: Path) -> None:
    """Assert that a page has no error, asked for nothing and fits a phone."""
    assert page.problems == []
    assert set(page.requests) == {path.as_uri()}
    assert path.stat().st_size <= LARGEST
    for width in (1280, 375):
        page.resize(width)
        assert page.run("document.documentElement.scrollWidth") <= width
    unnamed = "[...document.querySelectorAll('canvas.picture, img')].filter(e => !(e.ariaLabel || e.alt)).length"
    assert page.run(unnamed) == 0


def test_segmentation(tmp_path: Path) -> None:
    require_onnx()
    trained, data = build_method("segmentation/unet.yaml", tmp_path)
    path = write_page(trained, data, tmp_path)
    with open_browser() as page:
        open_page(page, path)
        for index in range(2):
            mask = predict_example(trained, data, index)[0].numpy()
            found = np.array(page.run(f"darkroom.run({index}).then(found => found.mask)")).reshape(mask.shape)
            assert (found == mask).mean() >= 0.999
        before = page.run("document.querySelectorAll('.bars li').length")
        page.run("document.querySelector('.stage').focus()")
        page.press("ArrowRight")
        assert before > 1
        assert page.run("document.querySelector('.status').textContent").endswith(" ms")
        require_quiet(page, path)


@pytest.mark.parametrize("config", ["classification/vgg.yaml", "classification/kinds_yolo.yaml"])
def test_classification(tmp_path: Path, config: str) -> None:
    require_onnx()
    trained, data = build_method(config, tmp_path)
    path = write_page(trained, data, tmp_path)
    with open_browser() as page:
        open_page(page, path)
        for index in range(2):
            expected = predict_example(trained, data, index)[0].numpy()
            found = page.run(f"darkroom.run({index}).then(found => found.probabilities)")
            assert np.abs(np.array(found) - expected).max() <= TOLERANCE
        require_quiet(page, path)
