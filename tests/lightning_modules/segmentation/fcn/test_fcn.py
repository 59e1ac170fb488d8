"""FCN: geometry of the authors' networks, and training from coarse to fine strides."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import Classifier, build_features
from darkroom.lightning_modules.segmentation import FCN, FCNNetwork
from tests.contracts.module import SegmentationContract
from tests.contracts.network import DenseNetworkContract


def randomize_scores(network: nn.Module) -> nn.Module:
    """Randomize the scoring layers, whose zeros would hide the layers before."""
    for layer in (network.score, *network.score_pools):
        nn.init.normal_(layer.weight, std=0.1)
    return network


class TestFCN8s(DenseNetworkContract):
    def build(self) -> nn.Module:
        return randomize_scores(FCNNetwork(num_classes=4, backbone="vgg11_bn", width=0.03))


class TestFCNAlexNet(DenseNetworkContract):
    def build(self) -> nn.Module:
        return randomize_scores(
            FCNNetwork(num_classes=4, backbone="alexnet", stride=16, width=0.03, upsampling="transposed")
        )


class TestFCN(SegmentationContract):
    steps, overfit_loss = 50, 0.35  # a map at stride 8 cannot follow every edge

    def build(self, **kwargs: Any) -> FCN:
        torch.manual_seed(0)
        return FCN(num_classes=6, backbone="vgg11_bn", stride=8, width=0.1, dropout=0.0, **kwargs)


@pytest.mark.parametrize("backbone", ["vgg11", "alexnet"])
@pytest.mark.parametrize(("stride", "window"), [(32, 64), (16, 96), (8, 128)])
def test_smaller_window_fits_images_of_any_size(backbone: str, stride: int, window: int) -> None:
    with torch.device("meta"):
        paper, small = (FCNNetwork(backbone=backbone, stride=stride, width=0.01, window=side) for side in (224, window))
        for side in range(1, 34):
            assert small(torch.empty(1, 3, side, side)).shape[-2:] == (side, side)
    assert small.offset == paper.offset
    assert paper.fc6.kernel_size[0] - small.fc6.kernel_size[0] == (224 - window) // 32


def test_window_must_be_multiple_of_stride() -> None:
    with pytest.raises(UsageError, match="model.window must be a multiple of 32, at least 32 for vgg16, got 100"):
        FCNNetwork(window=100)
    with pytest.raises(UsageError, match="at least 64 for alexnet, got 32"):
        FCNNetwork(backbone="alexnet", window=32)
    with pytest.raises(UsageError, match="model.window must be at least 128 at model.stride 8, got 96"):
        FCNNetwork(window=96)


@pytest.mark.parametrize(
    ("backbone", "stride", "offsets", "offset", "kernels"),
    [
        ("vgg16", 32, [], 19, [64]),
        ("vgg16", 16, [5], 27, [4, 32]),
        ("vgg16", 8, [5, 9], 31, [4, 4, 16]),
        ("alexnet", 32, [], 18, [63]),
        ("caffenet", 32, [], 18, [63]),
    ],
)
def test_crops_and_kernels_match_authors_networks(
    backbone: str, stride: int, offsets: list[int], offset: int, kernels: list[int]
) -> None:
    with torch.device("meta"):
        network = FCNNetwork(backbone=backbone, stride=stride)
    assert network.offsets == offsets
    assert network.offset == offset
    assert [up.size for up in (*network.ups, network.up)] == kernels


@pytest.mark.parametrize(("backbone", "parameters"), [("alexnet", 57_089_877), ("caffenet", 56_954_261)])
def test_alexnet_of_authors_has_grouped_convolutions(backbone: str, parameters: int) -> None:
    with torch.device("meta"):
        network = FCNNetwork(backbone=backbone, stride=32)
        classifier = Classifier(backbone, 21, window=227)
        assert network(torch.empty(1, 3, 500, 400)).shape == (1, 21, 500, 400)
    up = sum(p.numel() for p in network.up.parameters())
    assert sum(p.numel() for p in network.parameters()) - up == parameters
    assert sum(p.numel() for p in classifier.parameters()) == parameters


def test_caffenet_pools_before_it_normalizes() -> None:
    features = build_features("caffenet")
    names = [type(layer).__name__ for layer in features if not isinstance(layer, nn.ReLU)]
    assert names == ["Conv2d", "MaxPool2d", "LocalResponseNorm"] * 2 + ["Conv2d"] * 3 + ["MaxPool2d"]
    assert [layer.groups for layer in features if isinstance(layer, nn.Conv2d)] == [1, 2, 1, 2, 2]
    norm = features[3]
    assert (norm.size, norm.alpha, norm.beta, norm.k) == (
        5,
        1e-4,
        0.75,
        1.0,
    )  # Caffe's, as torch's alpha is of the mean
    narrow = build_features("caffenet", width=0.03)
    assert narrow(torch.rand(1, 3, 67, 67)).shape[-2:] == (1, 1)


def test_caffenet_has_no_published_weights() -> None:
    with pytest.raises(UsageError, match="model.weights must be null with model.backbone caffenet"):
        FCN(backbone="caffenet", weights="imagenet")


def test_layers_match_authors_network() -> None:
    with torch.device("meta"):
        network = FCNNetwork(stride=32)
        scores = network.features(torch.empty(1, 3, 500, 500))
    assert network.features[0].padding == (100, 100)
    assert tuple(network.fc6.weight.shape) == (4096, 512, 7, 7)
    assert network.fc6.padding == (0, 0)
    assert tuple(network.fc7.weight.shape) == (4096, 4096, 1, 1)
    assert scores.shape[-2:] == (22, 22)  # poolings round up: 698 -> 349 -> 175 -> 88 -> 44 -> 22
    assert network.score.weight.shape[0] == 21
    assert not list(network.up.parameters())  # constant


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_output_is_aligned_with_input(stride: int) -> None:
    """Check alignment: a symmetric network maps a mirrored image to the mirrored output."""
    torch.manual_seed(0)
    network = randomize_scores(FCNNetwork(num_classes=2, stride=stride, backbone="vgg11", width=0.05)).eval().double()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = (layer.weight.data + layer.weight.data.flip(-1)) / 2
    # Padded by 100, 58 pixels become 256 at the input of the first pooling, which is symmetric for all strides.
    image = torch.randn(1, 3, 58, 58, dtype=torch.double)
    torch.testing.assert_close(network(image.flip(-1)), network(image).flip(-1), rtol=1e-6, atol=1e-6)


def test_finer_stride_starts_from_coarser_with_zero_scores(tmp_path: Path) -> None:
    small = {"num_classes": 6, "backbone": "vgg11", "width": 0.05}
    coarse = FCN(stride=32, **small)
    randomize_scores(coarse.network)
    torch.save({"state_dict": coarse.state_dict()}, tmp_path / "fcn32s.ckpt")
    finer = FCN(stride=16, init_from=str(tmp_path / "fcn32s.ckpt"), **small)
    assert torch.equal(finer.network.score.weight, coarse.network.score.weight)
    assert finer.network.score_pools[0].weight.abs().max() == 0
    image = torch.randn(1, 3, 96, 96)
    agree = (coarse.eval()(image).argmax(1) == finer.eval()(image).argmax(1)).float().mean()
    assert agree > 0.95  # bilinear upsampling by 32 differs slightly from 2 and 16
    torch.save({"state_dict": finer.state_dict()}, tmp_path / "fcn16s.ckpt")
    assert (
        FCN(stride=8, init_from=str(tmp_path / "fcn16s.ckpt"), **small).network.score_pools[1].weight.abs().max() == 0
    )


def test_learned_upsampling_is_reinitialized_at_every_stride(tmp_path: Path) -> None:
    small = {"num_classes": 6, "backbone": "vgg11", "width": 0.05, "upsampling": "transposed"}
    torch.save(FCN(stride=32, **small).network.state_dict(), tmp_path / "fcn32s.pth")
    finer = FCN(stride=16, init_from=str(tmp_path / "fcn32s.pth"), **small)
    assert finer.network.up.weight.shape[-1] == 32


def test_mismatched_checkpoint_names_differing_keys(tmp_path: Path) -> None:
    torch.save(FCNNetwork(backbone="vgg11", stride=32, width=0.05).state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        UsageError,
        match=r"model.init_from: .*other.pth \(state dict\) does not fit FCN.*file has features.0.weight \(3, 3, 3, 3\).*"
        r"model network.features.0.weight \(6, 3, 3, 3\)",
    ):
        FCN(num_classes=21, backbone="vgg11", width=0.1, init_from=str(tmp_path / "other.pth"))
    with pytest.raises(
        UsageError, match=r"file has features.3.weight \(6, 3, 3, 3\).*model network.features.3.weight \(3, 3, 3, 3\)"
    ):
        FCN(num_classes=21, backbone="vgg16_bn", width=0.05, init_from=str(tmp_path / "other.pth"))


def test_all_at_once_scales_finer_poolings() -> None:
    with torch.device("meta"):
        assert FCNNetwork(stride=8, at_once=True).scales == (0.01, 0.0001)
        assert FCNNetwork(stride=8).scales == (1.0, 1.0)


def test_classifier_weights_are_loaded() -> None:
    torch.manual_seed(0)
    classifier = torchvision.models.alexnet(weights=None)
    network = FCNNetwork(backbone="alexnet", stride=32)
    network.load_classifier(classifier.state_dict())
    assert torch.equal(network.features[3].weight, classifier.features[3].weight)
    assert torch.equal(network.fc6.weight.flatten(1), classifier.classifier[1].weight)
    assert torch.equal(network.fc7.bias, classifier.classifier[4].bias)


def test_unreachable_weights_name_target_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise URLError("offline")

    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", offline)
    with torch.device("meta"):
        FCN(num_classes=21)
        with pytest.raises(UsageError, match=r"vgg16-397923af.pth cannot be fetched.*put it into"):
            FCN(num_classes=21, weights="imagenet")
        with pytest.raises(UsageError, match="model.width must be 1 with model.weights imagenet, got 0.5"):
            FCN(num_classes=21, weights="imagenet", width=0.5)
