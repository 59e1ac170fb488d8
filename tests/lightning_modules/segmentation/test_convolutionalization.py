"""Equality of a classifier and its convolutional form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import BackboneClassifier
from darkroom.lightning_modules.layers.backbones import Classifier
from darkroom.lightning_modules.layers.pretrained import load_all_but_last_layer
from darkroom.lightning_modules.segmentation import ConvolutionalizedClassifier, convolutionalize
from darkroom.lightning_modules.segmentation.convolutionalization import SlidingClassifier
from darkroom.lightning_modules.segmentation.geometry import mirror_pad
from tests.contracts.module import SegmentationContract
from tests.contracts.network import DenseNetworkContract


class TestSlidingClassifier(DenseNetworkContract):
    def build(self) -> nn.Module:
        return SlidingClassifier(Classifier("vgg11_bn", 4, window=32, width=0.03), window=32, stitch=2)


class TestConvolutionalizedClassifier(SegmentationContract):
    steps, overfit_loss = 60, 0.4  # every step samples other windows of the batch

    def build(self, **kwargs: Any) -> ConvolutionalizedClassifier:
        torch.manual_seed(0)
        return ConvolutionalizedClassifier(
            num_classes=6, classifier=SmallClassifier(), window=9, windows_per_image=64, **kwargs
        )


class SmallClassifier(nn.Module):
    """Classifier of 9 x 9 windows into six classes, at stride 1; flattens by view."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 24, 5), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(24 * 25, 64), nn.ReLU(), nn.Linear(64, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(x.view(x.size(0), -1))


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "mobilenet_v2", "shufflenet_v2_x0_5"])
@pytest.mark.slow
def test_convolution_matches_classifier_at_training_size(name: str) -> None:
    classifier = getattr(torchvision.models, name)(weights=None).eval()
    dense = convolutionalize(classifier)
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(dense(image)[..., 0, 0], classifier(image), rtol=1e-4, atol=1e-5)
        assert dense(torch.randn(1, 3, 384, 384)).shape == (1, 1000, 6, 6)


def test_vgg16_has_shapes_of_paper() -> None:
    with torch.device("meta"):
        dense = convolutionalize(torchvision.models.vgg16())
        assert dense(torch.empty(1, 3, 384, 384)).shape == (1, 1000, 6, 6)
    shapes = {name: tuple(p.shape) for name, p in dense.named_parameters() if name.startswith("classifier")}
    assert shapes["classifier.0.weight"] == (4096, 512, 7, 7)
    assert shapes["classifier.3.weight"] == (4096, 4096, 1, 1)
    assert sum(p.numel() for p in dense.parameters()) == 138_357_544


def test_every_cell_matches_classifier_on_its_window() -> None:
    classifier = SmallClassifier().eval()
    image = torch.randn(1, 3, 12, 11)
    dense = convolutionalize(classifier, window=9)(image)
    assert dense.shape == (1, 6, 4, 3)
    for y in range(4):
        for x in range(3):
            torch.testing.assert_close(dense[..., y, x], classifier(image[..., y : y + 9, x : x + 9]))


def test_classifier_is_not_modified() -> None:
    classifier = SmallClassifier().train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    dense = convolutionalize(classifier, window=9)
    for parameter in dense.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert isinstance(classifier.head[0], nn.Linear)
    assert classifier.training


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(62, 5)), "must follow a flattened map"),
        (torchvision.models.mobilenet_v3_small(weights=None), "pools the whole window"),
    ],
    ids=["no flattening", "squeeze and excitation"],
)
def test_unsupported_classifiers_raise(classifier: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convolutionalize(classifier, window=64)


def test_weights_with_custom_classifier_raise() -> None:
    with pytest.raises(UsageError, match="model.weights must be null .*for model.backbone"):
        ConvolutionalizedClassifier(classifier=SmallClassifier(), window=9, weights="imagenet")


def test_network_without_linear_layer_raises() -> None:
    with pytest.raises(UsageError, match="no Linear layer"):
        convolutionalize(nn.Sequential(nn.Conv2d(3, 4, 3)), window=8)


@pytest.mark.parametrize("stitch", [1, 2, 4])
def test_shift_and_stitch_evaluates_intermediate_windows(stitch: int) -> None:
    """Check the map at evaluated pixels against the classifier on the window around each pixel."""
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)).eval()
    image = torch.randn(1, 3, 33, 40)
    dense = SlidingClassifier(classifier, window=8, stitch=stitch).eval()(image)
    step = 4 // stitch
    for y, x in ((8, 8), (8 + step, 12), (16, 20 + step)):
        torch.testing.assert_close(dense[..., y, x], classifier(image[..., y - 4 : y + 4, x - 4 : x + 4]))


class PaddedClassifier(nn.Sequential):
    """Classifier of 16 x 16 windows with what may pad: convolutions, a strided one, and poolings that round up."""

    def __init__(self, *extra: nn.Module) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 5, stride=2, padding=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            *extra,
            nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
            nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect"),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(8 * 9, 5),
        )


CLASSIFIERS: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    **{
        name: (lambda name=name, side=side: (Classifier(name, 5, side, width=0.03), side))
        for name, side in (("alexnet", 63), ("vgg11", 40), ("vgg16_bn", 32))
    },
    "unpadded": lambda: (SmallClassifier(), 9),
    "padded": lambda: (PaddedClassifier(), 16),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_dense_map_equals_crops_that_training_reads(name: str) -> None:
    """Compare each evaluated pixel of the dense map with the training network on the crop around that pixel."""
    torch.manual_seed(0)
    classifier, window = CLASSIFIERS[name]()
    for layer in classifier.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.bias)  # zero biases would hide what padding adds
    model = ConvolutionalizedClassifier(num_classes=5, classifier=classifier, window=window).eval()
    network, image = model.network, torch.randn(2, 3, 45, 37)
    half, field = network.field // 2, network.field
    padded = mirror_pad(image, half, field, half, field)
    with torch.no_grad():
        dense = network(image)
        step = max(8, network.stride)
        for y in range(0, 45, step):
            for x in range(0, 37, step):
                crop = network.windows(padded[..., y : y + field, x : x + field])
                assert crop.shape[-2:] == (1, 1)
                torch.testing.assert_close(dense[..., y, x], crop[..., 0, 0], rtol=1e-4, atol=1e-5)


def test_windows_of_vgg16_span_receptive_field_of_fcn() -> None:
    with torch.device("meta"):
        network = SlidingClassifier(Classifier("vgg16", 21), window=224)
    assert (network.field, network.stride) == (404, 32)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (PaddedClassifier(nn.GroupNorm(2, 8)), "same logits alone and inside an image"),
        (PaddedClassifier(nn.ZeroPad2d(1)), "same logits alone and inside an image"),
        (torchvision.models.resnet18(weights=None, num_classes=5), "padding set to 0.*use model.backbone"),
        (torchvision.models.mobilenet_v2(weights=None, num_classes=5), "padding set to 0.*use model.backbone"),
    ],
    ids=["group_norm", "zero_pad", "resnet", "mobilenet"],
)
def test_classifiers_that_differ_densely_raise(classifier: nn.Module, message: str) -> None:
    window = 16 if isinstance(classifier, PaddedClassifier) else 64
    with pytest.raises(UsageError, match=f"model.classifier must.*{message}"):
        ConvolutionalizedClassifier(num_classes=5, classifier=classifier, window=window)


def test_windows_are_labelled_by_centre_pixel() -> None:
    """Replace the classifier by one that returns the central pixel of every window, at stride 4, of the mask itself."""
    classifier = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 6))
    model = ConvolutionalizedClassifier(num_classes=6, classifier=classifier, window=8, windows_per_image=20)
    model.network.windows = nn.AvgPool2d(1, stride=4)
    model.network.windows.register_forward_pre_hook(lambda _, inputs: (inputs[0][..., 4:-3, 4:-3],))
    mask = torch.randint(0, 6, (2, 20, 30))
    image = mask[:, None].expand(-1, 3, -1, -1).float()
    seen = set()
    for _ in range(20):
        logits, labels = model.classify_windows(image, mask)
        assert logits.shape == (40, 3, 1, 1)
        assert torch.equal(logits[:, 0, 0, 0].long(), labels[:, 0, 0])
        seen.add(tuple(labels.flatten().tolist()))
    assert len(seen) > 10
    assert model.classify_windows(image[..., :6, :9], mask[..., :6, :9])[0].shape[0] <= 2 * 2 * 3


def test_training_windows_equal_crops() -> None:
    """Compare the logits of a training step with those of the classifier on crops around every pixel."""
    model = ConvolutionalizedClassifier(
        num_classes=6, classifier=SmallClassifier(), window=9, windows_per_image=9
    ).eval()
    image, mask = torch.randn(1, 3, 7, 6), torch.arange(42).view(1, 7, 6)
    logits, pixels = model.classify_windows(image, mask)
    crops = mirror_pad(image, 4, 4, 4, 4).unfold(2, 9, 1).unfold(3, 9, 1)[0].permute(1, 2, 0, 3, 4).flatten(0, 1)
    torch.testing.assert_close(logits[..., 0, 0], model.network.windows(crops[pixels.flatten()])[..., 0, 0])
    assert len(pixels.unique()) == 9


def test_pretrained_weights_exclude_last_layer() -> None:
    source, target = Classifier("vgg11", 10, 32, width=0.03), Classifier("vgg11", 4, 32, width=0.03)
    load_all_but_last_layer(target, source.state_dict())
    assert torch.equal(source.classifier[0].weight, target.classifier[0].weight)
    assert target.classifier[6].out_features == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"window": 8}, "must be at least 32"), ({"window": 32, "stitch": 3}, "divide"), ({"width": 0}, "width")],
)
def test_invalid_arguments_raise(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ConvolutionalizedClassifier(**{"backbone": "vgg11", "width": 0.03, **wrong})


def test_mean_over_pixels_becomes_the_pooling_of_a_window() -> None:
    network = BackboneClassifier("mobilenet_v2", 4, (3, 64, 64), width=0.1).eval()
    dense = convolutionalize(network, 64)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(dense(image)[..., 0, 0], network(image))
        assert dense(torch.randn(1, 3, 128, 64)).shape == (1, 4, 3, 1)


class _Averaging(nn.Module):
    """Classifier whose global average pooling is a function."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features, self.pool, self.classifier = nn.Conv2d(3, 4, 3), pool, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)))


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: x.mean((2, 3)),
        lambda x: x.mean(dim=[2, 3]),
        lambda x: x.mean([-1, -2], keepdim=True).flatten(1),
        lambda x: torch.mean(x, (2, 3)),
        lambda x: torch.mean(x, dim=(2, 3)),
    ],
)
def test_mean_may_be_written_in_any_way(pool: Callable[[Tensor], Tensor]) -> None:
    network, image = _Averaging(pool).eval(), torch.randn(1, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(
            convolutionalize(network, 16)(image)[..., 3, 4], network(image[..., 3 : 3 + 16, 4 : 4 + 16])
        )
