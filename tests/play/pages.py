"""Pages of tiny runs, and what ``predict`` returns for their examples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.cli.commands.export import parse
from darkroom.datamodules.base import VisionDataModule
from darkroom.export.checkpoint import TrainedMethod, load_trained
from darkroom.lightning_modules.layers.image_normalization import ImageNormalization
from darkroom.play.examples import Example, read_examples
from darkroom.play.runtime import find_runtime
from darkroom.play.write import write_playground
from darkroom.report.run import read_run
from tests.conftest import CONFIGS
from tests.test_configs import config_of, family_of, small

RUNTIME = find_runtime()  # before tests set a cache of their own
needs_runtime = pytest.mark.skipif(
    RUNTIME is None, reason="no onnxruntime-web here: make playground-runtime fetches it by npm"
)


def fit_tiny(darkroom: Callable[..., Any], name: str, *options: str) -> Path:
    """Fit a tiny version of a shipped config, with options, for two steps; return the folder of the run."""
    arguments = small(config_of(name), Path("fake"), family_of(name), "shapes")
    outcome = darkroom("fit", "--config", CONFIGS / name, "--experiment", "tiny", *arguments, *options)
    assert outcome.code == 0, outcome.message
    return Path("runs/tiny/0").absolute()


def write_page(run: Path) -> tuple[Path, TrainedMethod, VisionDataModule]:
    """Write the page of a run; return it with the method and data of the run."""
    assert RUNTIME is not None
    checkpoint = run / "checkpoints" / "last.ckpt"
    _, data = parse(["--ckpt_path", str(checkpoint)])
    assert data is not None
    trained = load_trained(checkpoint)
    return write_playground(read_run(run), trained, data, RUNTIME), trained, data


@torch.no_grad()
def predict_examples(trained: TrainedMethod, data: VisionDataModule) -> list[Any]:
    """Return the results of ``predict_step`` for the examples of the page, one batch for each."""
    return [trained.model.predict_step(_batch(trained, example), 0) for example in read_examples(data)]


def _batch(trained: TrainedMethod, example: Example) -> dict[str, Any]:
    image = ImageNormalization(*trained.normalization)(example.image[None])
    batch: dict[str, Any] = {"image": list(image) if "target" in example.truth else image}
    if "label" in example.truth:
        batch["label"] = torch.as_tensor(example.truth["label"])[None]
    if "proposals" in example.truth:
        batch["proposals"] = [example.truth["proposals"]]
    return batch
