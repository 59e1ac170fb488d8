"""Forward calls of the network in a validation, with and without each logger of the shipped configs."""

import re
from collections.abc import Callable

import pytest
import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn

from darkroom.callbacks.base import FigureCallback
from darkroom.callbacks.loggers.detection_logger import DetectionLogger
from darkroom.callbacks.loggers.segmentation_mask_logger import SegmentationMaskLogger
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.lightning_modules.detection.base import ObjectDetection
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from tests.callbacks.blobs import trainer
from tests.conftest import CONFIGS


class Detector(nn.Module):
    """Detects nothing, as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if self.training:
            return {"loss": self.weight.sum()}
        empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long)}
        return [empty for _ in images]


SIZES = {"train_size": 2, "val_size": 5, "test_size": 5, "side": 32, "batch_size": 2, "num_workers": 0}

# Loggers of a batch that the step has just processed use the outputs of the step.
USES_OUTPUTS: dict[str, Callable[[], tuple[FigureCallback, LightningModule, LightningDataModule]]] = {
    "SegmentationMaskLogger": lambda: (
        SegmentationMaskLogger(num_samples=3),
        SemanticSegmentation(nn.Conv2d(3, 6, 1), num_classes=6),
        ShapesSegmentation(**SIZES),
    ),
    "DetectionLogger": lambda: (
        DetectionLogger(num_samples=3),
        ObjectDetection(Detector(), num_classes=5),
        ShapesDetection(**SIZES),
    ),
}
RUNS_THE_MODEL = {
    "ClassificationLogger": "computes gradients for Grad-CAM, which no step does",
    "SampleLogger": "samples, which no step does",
    "DiffusionSampleLogger": "samples, which no step does",
    "DenoisingLogger": "samples, and records every step of the sampler",
    "PromptLogger": "samples prompts, which no step does",
    "AttentionMapLogger": "samples prompts with hooks on the attention layers",
    "CascadeLogger": "samples every stage of a cascade, whose steps compute nothing",
    "UpsamplingLogger": "samples large images, where the step predicts the noise of one time",
    "ReconstructionLogger": "decodes the posterior mean, where the step decodes a sample of the posterior or nothing",
    "LatentSpaceLogger": "decodes a grid of latents and encodes images, since the steps return no codes",
    "TimestepLossLogger": "needs the error of each image at its own time, where the step returns the mean over a batch",
}


def test_every_shipped_logger_uses_outputs_or_is_exempt() -> None:
    configs = "\n".join(path.read_text() for path in CONFIGS.rglob("*.yaml"))
    used = set(re.findall(r"class_path: (?:[\w.]+\.)?(\w+Logger)\b", configs)) - {"WandbLogger", "TensorBoardLogger"}
    assert used == USES_OUTPUTS.keys() | RUNS_THE_MODEL.keys()


@pytest.mark.parametrize("command", ["validate", "test"])
@pytest.mark.parametrize("name", USES_OUTPUTS)
def test_logger_adds_no_forward_call(name: str, command: str) -> None:
    calls = []
    for with_logger in (False, True):
        logger, module, data = USES_OUTPUTS[name]()
        count = 0

        def increase(*args: object) -> None:
            nonlocal count
            count += 1

        module.network.register_forward_hook(increase)
        run = trainer(*([logger] if with_logger else []))
        getattr(run, command)(module, data, verbose=False)
        calls.append(count)
    assert calls[0] == calls[1] >= 3
    assert list(logger.folder.glob("figures/*/*.png"))
