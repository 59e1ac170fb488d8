"""Memory of test and predict does not grow with the number of images."""

import subprocess
import sys

import pytest

from tests.conftest import CONFIGS

# Peak memory of a fresh process that tests, and predicts for, so many images in batches of 100.
_CODE = """
import sys
import torch
from lightning import Trainer
torch.set_num_threads(1)
{setup}
quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
trainer = Trainer(accelerator="cpu", **quiet)
trainer.test(model, data, verbose=False)
trainer.predict(model, data, return_predictions=False)
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM")))
"""
_SIZES = "train_size=4, val_size=4, test_size={count}, batch_size=100, num_workers=0"
_SETUPS = {
    "classification": """
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.datamodules.shapes import ShapesImages
model = ImageClassifier(BackboneClassifier("vgg11_bn", 5, (3, 32, 32), width=0.05), num_classes=5)
data = ShapesImages(side=32, label="kind", {sizes})
""",
    "segmentation": """
from darkroom.lightning_modules.segmentation import UNet
from darkroom.datamodules.shapes import ShapesSegmentation
model, data = UNet(num_classes=6, base_channels=2), ShapesSegmentation(side=16, {sizes})
""",
    "detection": """
from darkroom.lightning_modules.detection import YOLO
from darkroom.lightning_modules.detection.inference import DetectionInference
from darkroom.datamodules.shapes import ShapesDetection
inference = DetectionInference(max_detections=5)
model = YOLO(num_classes=5, width=0.03, image_size=64, inference=inference)
data = ShapesDetection(side=64, {sizes})
""",
    "generation": """
from darkroom.lightning_modules.autoencoding import VAE
from darkroom.datamodules.shapes import ShapesImages
model = VAE((3, 16, 16), latent_dim=4, channels=(4, 8), iwae_samples=None)
data = ShapesImages(side=16, mean=[0.5] * 3, std=[0.5] * 3, {sizes})
""",
}
# The metrics of boxes need the detections and objects of the whole set: 17 kB for each image were measured.
_LIMIT = {"detection": 250_000}


def peak_kilobytes(family: str, count: int) -> int:
    setup = _SETUPS[family].format(sizes=_SIZES.format(count=count))
    code = _CODE.format(setup=setup)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1])


@pytest.mark.slow  # 11,000 images
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("family", list(_SETUPS))
def test_memory_is_flat_in_the_number_of_images(family: str) -> None:
    few, many = (peak_kilobytes(family, count) for count in (1000, 10_000))
    assert many - few < _LIMIT.get(family, 30_000), (few, many)
