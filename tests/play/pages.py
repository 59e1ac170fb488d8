"""Pages of tiny methods with random weights, and what ``predict`` returns for their examples."""

from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.datamodules.base import VisionDataModule
from darkroom.export.checkpoint import TrainedMethod
from darkroom.lightning_modules.layers.image_normalization import ImageNormalization
from darkroom.play.examples import read_examples
from darkroom.play.runtime import find_runtime
from darkroom.play.write import write_playground
from darkroom.report.run import Run

RUNTIME = find_runtime()  # before tests set a cache of their own
needs_runtime = pytest.mark.skipif(
    RUNTIME is None, reason="no onnxruntime-web here: make playground-runtime fetches it by npm"
)


def write_page(trained: TrainedMethod, data: VisionDataModule, folder: Path) -> Path:
    """Write the page of a method into the folder of an empty run."""
    assert RUNTIME is not None
    return write_playground(Run(folder, {}, {}, None, None), trained, data, RUNTIME)


@torch.no_grad()
def predict_example(trained: TrainedMethod, data: VisionDataModule, index: int) -> Any:
    """Return the result of ``predict_step`` for an example of the page."""
    example = read_examples(data)[index]
    image = ImageNormalization(*trained.normalization)(example.image[None])
    detection = "target" in example.truth
    batch: dict[str, Any] = {"image": list(image) if detection else image}
    if "proposals" in example.truth:
        batch["proposals"] = [example.truth["proposals"]]
    return trained.model.predict_step(batch, 0)
