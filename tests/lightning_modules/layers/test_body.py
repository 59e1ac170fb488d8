"""Bodies of classifiers: feature maps, width, channels, weights and the feature pyramid."""

import copy
from typing import Any, get_args
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.torchvision.pyramid import FeaturePyramid
from darkroom.lightning_modules.layers import body as module
from darkroom.lightning_modules.layers.body import FeatureBackbone, build_backbone


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", [64, 128, 256, 512]),  # not the maps within the first block of the next stage
        ("resnet50", [256, 512, 1024, 2048]),
        ("mobilenet_v3_large", [24, 40, 112, 960]),
        ("efficientnet_b0", [24, 40, 112, 1280]),
        ("efficientnet_lite0", [24, 40, 112, 1280]),
        ("regnet_y_400mf", [48, 104, 208, 440]),
        pytest.param("densenet121", [256, 512, 1024, 1024], marks=pytest.mark.slow),
        ("vgg16", [256, 512, 512, 512]),
        ("convnext_tiny", [96, 192, 384, 768]),
    ],
)
def test_body_returns_last_map_of_every_stride(name: str, channels: list[int]) -> None:
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        body = build_backbone(name)
        with torch.no_grad():
            maps = body.eval()(torch.empty(1, 3, 64, 96))
    assert body.channels == channels
    assert body.levels == [2, 3, 4, 5]
    assert list(maps) == ["0", "1", "2", "3"]
    strides = (4, 8, 16, 32)
    assert [map_.shape for map_ in maps.values()] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)
    ]


@pytest.mark.parametrize("name", get_args(FeatureBackbone))
@pytest.mark.parametrize("size", [(1, 1), (37, 501)])
def test_maps_of_any_image_halve_rounded_up(name: str, size: tuple[int, int]) -> None:
    body = build_backbone(name, levels=(1, 2, 3, 4, 5), width=0.05, in_channels=2).eval()
    with torch.no_grad():
        maps = body(torch.randn(1, 2, *size))
    for level, channels, map_ in zip(body.levels, body.channels, maps.values(), strict=True):
        assert map_.shape == (1, channels, *(-(-side // 2**level) for side in size))
    assert torch.equal(body.last_map(torch.zeros(1, 2, *size)), body(torch.zeros(1, 2, *size))["4"])


@pytest.mark.parametrize(
    "name", ["resnet18", "resnext50_32x4d", "mobilenet_v3_small", "efficientnet_lite0", "vgg11_bn"]
)
def test_narrow_bodies_have_finite_gradients(name: str) -> None:
    body = build_backbone(name, levels=(3, 4), width=0.25)
    with torch.device("meta"):
        wide = build_backbone(name, levels=(3, 4))
    assert body.channels == [round(c / 4) for c in wide.channels]
    sum(map_.square().mean() for map_ in body(torch.randn(2, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in body.parameters())


def test_bodies_of_one_name_are_independent() -> None:
    """Check a body that follows one with other options, and that its weights depend on the seed alone."""
    module._traced.cache_clear()
    bodies = []
    for options in ({}, {"norm": "frozen", "frozen_stages": 3, "in_channels": 1}, {}):
        torch.manual_seed(0)
        bodies.append(build_backbone("resnet18", width=0.1, **options))
    first, frozen, second = bodies
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in frozen.modules())
    assert all(parameter.requires_grad for parameter in second.parameters())
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_imagenet_features_match_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18()
    monkeypatch.setattr(module, "fetch_imagenet_weights", lambda *_: theirs.state_dict())
    image = torch.randn(1, 3, 64, 64)
    for norm in ("batch", "frozen"):
        body = build_backbone("resnet18", levels=(2, 5), weights="imagenet", norm=norm)
        x = theirs.eval().maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        first = theirs.layer1(x)
        last = theirs.layer4(theirs.layer3(theirs.layer2(first)))
        for map_, expected in zip(body.eval()(image).values(), (first, last), strict=True):
            torch.testing.assert_close(map_, expected, rtol=1e-4, atol=1e-5)


def test_frozen_stages_have_no_gradient() -> None:
    body = build_backbone("resnet18", width=0.1, frozen_stages=2)
    stuck = {name.split(".")[0] for name, p in body.named_parameters() if not p.requires_grad}
    free = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    assert stuck == {"conv1", "layer1"}  # torchvision's detectors train layer2 to layer4, and no norm before them
    assert free == {"layer2", "layer3", "layer4"}
    before = copy.deepcopy(body.state_dict())
    body(torch.randn(2, 3, 64, 64))
    moved = {name.split(".")[0] for name, value in body.state_dict().items() if not torch.equal(before[name], value)}
    assert moved == {"layer2", "layer3", "layer4"}
    vgg = build_backbone("vgg16", levels=[4], width=0.03, frozen_stages=1)
    assert [n for n, p in vgg.named_parameters() if not p.requires_grad and n.endswith("weight")] == [
        f"features.{index}.weight" for index in (0, 2, 5, 7)
    ]


def test_pyramid_keys_and_shapes_match_torchvision() -> None:
    with torch.device("meta"):
        ours = FeaturePyramid(build_backbone("resnet50"))
        theirs = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=nn.BatchNorm2d)
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in theirs.state_dict().items()
        }
        maps = ours(torch.empty(1, 3, 128, 64))
    assert ours.out_channels == 256
    assert {name: tuple(map_.shape[1:]) for name, map_ in maps.items()} == {
        "0": (256, 32, 16),
        "1": (256, 16, 8),
        "2": (256, 8, 4),
        "3": (256, 4, 2),
        "pool": (256, 2, 1),
    }


def test_body_can_be_copied() -> None:
    body = build_backbone("resnet18", width=0.1)
    image = torch.randn(1, 3, 32, 32)
    again = copy.deepcopy(body.eval())
    assert torch.equal(body(image)["3"], again(image)["3"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet51"}, "model.backbone must be efficientnet_lite0 or .*resnet50.*got resnet51"),
        ({"name": "alexnet"}, "alexnet has no map of stride 4"),
        ({"name": "vit_b_16"}, "vit_b_16 has no map of stride 4"),
        ({"name": "swin_t"}, "swin_t has no map of stride 4"),
        ({"name": "convnext_tiny", "width": 0.5}, "features.0.1, a LayerNorm2d, cannot be narrowed"),
        ({"name": "shufflenet_v2_x1_0", "width": 0.25}, "cannot be built at model.width 0.25"),
        ({"name": "resnet18", "width": 0}, "model.width must be .*got 0"),
        (
            {"name": "resnet18", "width": 0.5, "weights": "imagenet"},
            "model.width must be 1 with model.weights imagenet",
        ),
        ({"name": "resnet18", "frozen_stages": 6}, "model.frozen_stages must be .*got 6"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_backbone(**arguments)


def test_unreachable_weights_name_target_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", "/nowhere")
    monkeypatch.setattr("torch.hub.os.makedirs", lambda *_, **__: None)
    with pytest.raises(UsageError, match="resnet18-f37072fd.pth .*put it into /nowhere/hub/checkpoints"):
        build_backbone("resnet18", weights="imagenet")
