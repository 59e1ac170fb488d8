"""BackboneClassifier: names and shapes of torchvision, YOLO's features, widths and image sizes."""

from typing import Any

import pytest
import torch
import torchvision

from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import BackboneClassifier
from darkroom.lightning_modules.detection.yolo import YOLONetwork
from darkroom.lightning_modules.segmentation.fcn import FCNNetwork

BACKBONES = ["alexnet", "caffenet", "vgg11", "vgg16_bn", "yolo_paper", "yolo_darknet", "yolo_tiny"]


@pytest.mark.parametrize("backbone", ["alexnet", "vgg11", "vgg16_bn"])
def test_connected_head_has_parameters_of_torchvision(backbone: str) -> None:
    with torch.device("meta"):
        ours = BackboneClassifier(backbone, 1000, (3, 224, 224), head="connected").state_dict()
        theirs = torchvision.models.get_model(backbone).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("preset", ["paper", "darknet", "tiny"])
def test_features_have_parameters_of_yolo(preset: str) -> None:
    ours = BackboneClassifier(f"yolo_{preset}", 5, (3, 64, 64), width=0.03).features.state_dict()
    yolo = YOLONetwork(preset=preset, image_size=64, width=0.03).features.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {k: v.shape for k, v in yolo.items()}


def test_features_have_parameters_of_fcn() -> None:
    ours = BackboneClassifier("vgg11_bn", 5, (3, 64, 64), width=0.03).features.state_dict()
    fcn = FCNNetwork(backbone="vgg11_bn", width=0.03).state_dict()
    shared = {name: value.shape for name, value in fcn.items() if name.startswith("features.")}
    assert {f"features.{name}": value.shape for name, value in ours.items()} == shared


@pytest.mark.parametrize("backbone", BACKBONES)
def test_pooled_head_takes_images_of_any_size(backbone: str) -> None:
    network = BackboneClassifier(backbone, 7, (1, 70, 90), width=0.03).eval()
    for size in ((70, 90), (96, 96)):
        assert network(torch.randn(2, 1, *size)).shape == (2, 7)


def test_every_parameter_gets_a_gradient() -> None:
    network = BackboneClassifier("vgg11_bn", 7, (3, 32, 32), width=0.03)
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_dropout_is_that_of_the_head_unless_given() -> None:
    def rates(**kwargs: Any) -> list[float]:
        network = BackboneClassifier("vgg11", 7, (3, 32, 32), width=0.03, **kwargs)
        return [layer.p for layer in network.classifier if isinstance(layer, torch.nn.Dropout)]

    assert rates() == [0.0]
    assert rates(dropout=0.2) == [0.2]
    assert rates(head="connected") == [0.5, 0.5]
    assert rates(head="connected", dropout=0.1) == [0.1, 0.1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet18"}, "model.network.backbone must be one of alexnet, .*yolo_tiny, got 'resnet18'"),
        ({"image_shape": (3, 8, 8)}, r"vgg11_bn needs images of at least 32 x 32 pixels, got 8 x 8; .*data.size"),
        ({"backbone": "alexnet", "image_shape": (3, 62, 90)}, "at least 63 x 63 pixels, got 62 x 90"),
        ({"width": 0.0}, "model.network.width must be a factor above 0"),
        ({"dropout": 1.0}, r"model.network.dropout must be in \[0, 1\), got 1.0"),
        ({"head": "global"}, "model.network.head must be one of pooled, connected, got 'global'"),
        ({"head": "connected", "backbone": "yolo_tiny"}, "model.network.head must be pooled for YOLO"),
        ({"head": "connected", "image_shape": (3, 32, 64)}, "pooled .* for images that are not square"),
        ({"num_classes": None}, "model.network.num_classes and model.network.image_shape must be set"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BackboneClassifier(**{"num_classes": 5, "image_shape": (3, 32, 32), "width": 0.03, **arguments})
