"""The code in the guide of export runs as it is printed there."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.export.checkpoint import TrainedMethod
from darkroom.export.formats.weights import write_weights
from darkroom.export.write import write_graph
from darkroom.lightning_modules.segmentation import UNet
from tests.export.bare_interpreter import run_bare

GUIDE = Path(__file__).parents[2] / "docs/guides/export.md"
CLASSES = ("background", "circle", "triangle", "square", "star", "cross")


def code_with(words: str) -> str:
    """Return the Python block of the guide that contains these words."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if words in block]
    return found


def trained_unet(base_channels: int) -> TrainedMethod:
    torch.manual_seed(0)
    model = UNet(num_classes=6, base_channels=base_channels).eval()
    return TrainedMethod(model, model, ([0.5] * 3, [0.25] * 3), CLASSES, 0, Path("unet.ckpt"))


def test_weights_load_in_three_lines() -> None:
    trained = trained_unet(16)
    write_weights(trained, Path("model.safetensors"))
    found: dict[str, torch.nn.Module] = {}
    exec(code_with("load_file"), found)
    image = torch.rand(1, 3, 40, 33)
    with torch.no_grad():
        assert torch.equal(found["network"].eval()(image), trained.model(image))


@pytest.mark.slow
def test_example_runs_with_numpy_pillow_and_onnxruntime_alone(tmp_path: Path) -> None:
    """Run it in an interpreter that finds these three packages and no other."""
    trained = trained_unet(2)
    write_graph(trained, None, "onnx", Path("model.onnx"), 1)
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    Image.fromarray(image).save("photo.png")
    script = Path("example.py")
    script.write_text(code_with("onnxruntime.InferenceSession"))
    text = run_bare(script, ["numpy", "PIL", "pillow", "onnxruntime"], tmp_path / "packages")
    tensor = (torch.from_numpy(image).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    pixels = torch.bincount(trained.model.predict_step({"image": tensor}).flatten(), minlength=6).tolist()
    printed = json.loads(text.replace("'", '"'))
    assert printed.keys() == set(CLASSES)
    assert sum(abs(printed[name] - count) for name, count in zip(CLASSES, pixels, strict=True)) <= 2


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("DARKROOM_EXPORT") != "all", reason="torch reads the file for minutes")
def test_torch_example_runs() -> None:
    write_graph(trained_unet(2), None, "torch_export", Path("model.pt2"), 1)
    found: dict[str, torch.Tensor] = {}
    exec(code_with("torch.export.load"), found)
    assert found["mask"].shape == (1, 200, 300)
    assert found["logits"].shape == (1, 6, 200, 300)
