"""Classifiers with other widths, and batch norms with constant statistics."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import scale_channels
from darkroom.lightning_modules.layers.efficientnet_lite import EfficientNetLite0
from darkroom.lightning_modules.layers.narrow import FrozenBatchNorm2d, freeze_norms, narrow

CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": torchvision.models.resnet18,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "efficientnet_lite0": EfficientNetLite0,
}


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("width", [0.03, 0.25])
def test_layers_keep_names_and_geometry_with_fewer_channels(name: str, width: float) -> None:
    with torch.device("meta"):
        wide, network = CLASSIFIERS[name](), CLASSIFIERS[name]()
    narrow(network, width)
    assert network.state_dict().keys() == wide.state_dict().keys()
    assert not any(value.is_meta for value in network.state_dict().values())
    for path, before in wide.named_modules():
        after = network.get_submodule(path)
        if isinstance(before, nn.Conv2d):
            assert isinstance(after, nn.Conv2d)
            assert after.out_channels == scale_channels(before.out_channels, width)
            for option in ("kernel_size", "stride", "padding", "dilation"):
                assert vars(after)[option] == vars(before)[option]
            if before.groups > 1:  # depthwise
                assert after.groups == after.in_channels == after.out_channels
        elif isinstance(before, nn.BatchNorm2d):
            assert after.num_features == scale_channels(before.num_features, width)
            assert (after.eps, after.momentum) == (before.eps, before.momentum)
    logits = network.eval()(torch.randn(1, 3, 64, 64))
    assert logits.shape == (1, 1000)
    assert logits.isfinite().all()


def test_narrow_keeps_input_channels_classes_and_groups() -> None:
    with torch.device("meta"):
        vgg, mobile = torchvision.models.vgg11_bn(), torchvision.models.mobilenet_v2()
    for network in (vgg, mobile):
        narrow(network, 0.1)
        assert network.eval()(torch.randn(1, 3, 224, 224)).shape == (1, 1000)
    assert vgg.features[0].weight.shape == (6, 3, 3, 3)
    assert vgg.classifier[0].weight.shape == (410, 51 * 49)
    depthwise = [m for m in mobile.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depthwise) == 17
    assert all(m.groups == m.in_channels == m.out_channels for m in depthwise)
    with torch.device("meta"):
        resnext = torchvision.models.resnext50_32x4d()
    narrow(resnext, 0.5)
    assert resnext.layer1[0].conv2.weight.shape == (64, 4, 3, 3)  # 16 groups of four channels, unchanged


@pytest.mark.parametrize("width", [0.05, 0.3, 2])
def test_groups_divide_the_channels_of_any_width(width: float) -> None:
    network = nn.Sequential(nn.Conv2d(3, 24, 3), nn.Conv2d(24, 36, 3, groups=6))
    narrow(network, width)
    grouped = network[1]
    assert grouped.in_channels % grouped.groups == grouped.out_channels % grouped.groups == 0
    assert network(torch.randn(1, 3, 8, 8)).shape == (1, scale_channels(36, width), 4, 4)


def test_convolutions_start_from_initialization_of_he() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 512, 3))
    narrow(network, 0.5)
    layer = network[1]
    assert layer.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.05)
    assert layer.bias.abs().max() == 0


def test_layer_of_another_type_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU())
    with pytest.raises(
        UsageError, match="model.width must be 1 for this backbone, got 0.5: 1, a PReLU, cannot be narrowed"
    ):
        narrow(network, 0.5)
    with pytest.raises(UsageError, match="model.width must be a factor above 0, got -1"):
        narrow(network, -1)
    assert network[0].out_channels == 8


def test_frozen_norms_are_constant() -> None:
    norm = nn.BatchNorm2d(4, eps=1e-3)
    norm(torch.randn(8, 4, 5, 5))
    image = torch.randn(2, 4, 3, 3)
    expected = norm.eval()(image)
    frozen = freeze_norms(nn.Sequential(norm)).train()
    assert isinstance(frozen[0], FrozenBatchNorm2d)
    torch.testing.assert_close(frozen(image), expected)
    torch.testing.assert_close(frozen(image), torchvision.ops.FrozenBatchNorm2d.forward(frozen[0], image))
    assert not list(frozen.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert frozen(image.bfloat16()).dtype == torch.bfloat16


def test_freezing_replaces_norms_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    names = network.state_dict().keys() - {"1.0.num_batches_tracked"}
    assert freeze_norms(network) is network
    assert network.state_dict().keys() == names
    assert [name for name, _ in network.named_parameters()] == ["0.weight", "0.bias"]
    assert isinstance(freeze_norms(nn.BatchNorm2d(4)), FrozenBatchNorm2d)
