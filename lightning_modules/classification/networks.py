"""BackboneClassifier: the backbones of segmentation and detection as classifiers."""

from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import Backbone, Classifier, build_features, scale_channels
from darkroom.lightning_modules.layers.body import Body, FeatureBackbone, build_backbone, is_body
from darkroom.lightning_modules.layers.contracting_path import ContractingPath
from darkroom.lightning_modules.layers.darknet import Preset, build_yolo_features
from darkroom.lightning_modules.layers.pretrained import (
    Normalization,
    Weights,
    fetch_imagenet_weights,
    fit_channels,
    imagenet_weights,
    last_layer,
    load_all_but_last_layer,
    normalization_of,
)
from darkroom.lightning_modules.utils.arguments import check_choice
from darkroom.lightning_modules.utils.initial_weights import layers_with_values_of

ClassifierBackbone = Literal[Backbone, FeatureBackbone, "unet", "yolo_paper", "yolo_darknet", "yolo_tiny"]
Head = Literal["pooled", "connected"]
_SMALLEST = {"alexnet": 63, "caffenet": 67, "vgg": 32}  # sides of images, in pixels
_UNPUBLISHED = ("unet", "yolo")  # backbones without ImageNet weights
_OPTION = "model.network"


class BackboneClassifier(nn.Module):
    """Convolutions of a backbone and a head. (B, C, H, W) -> logits (B, K).

    ``features`` has the parameters of the backbone in segmentation and detection, with the same names, which are those of
    torchvision, and of timm for EfficientNet-Lite0.

    Heads, under ``classifier``:

    - ``pooled``: global average pooling, dropout and one linear layer, for images of any size. YOLO's authors pretrain so
      (Redmon et al. 2016, section 2.2);
    - ``connected``: three linear layers with dropout (Krizhevsky et al. 2012, Simonyan & Zisserman 2015), for square images
      of one size. At 224 pixels and width 1 the parameters are those of torchvision.

    Args:
        backbone: AlexNet, CaffeNet (the AlexNet of Caffe), a VGG, a ResNet, MobileNetV2, EfficientNet-Lite0,
            unet (the contracting path of U-Net, 64 channels at its first level and width 1), or the pretrained convolutions
            of a preset of YOLO.
        num_classes: K; the command line takes it from the data.
        image_shape: (C, H, W); the command line takes it from the data.
        width: factor on the channels of every layer; 1 is the paper's.
        head: pooled or connected.
        dropout: probability in [0, 1); None: 0 for pooled, 0.5 for connected.
        weights: imagenet: start from ImageNet weights, at width 1; their last layer is loaded if K is 1,000.

    Raises:
        UsageError: an argument is out of its range, the images are too small for the backbone, or weights are missing.

    Attributes:
        expected_normalization: mean and standard deviation of the images for which the backbone's ImageNet weights were
            trained, whether it starts from them or not; None: ImageNet weights of it are not published.
        pretrained_layers: names of the layers that start from ImageNet weights.
    """

    linked_arguments: ClassVar[tuple[str, ...]] = ("num_classes", "image_shape")
    initial_weight_arguments: ClassVar[tuple[str, ...]] = ("weights",)

    def __init__(
        self,
        backbone: ClassifierBackbone = "vgg11_bn",
        num_classes: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        width: float = 1.0,
        head: Head = "pooled",
        dropout: float | None = None,
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        check_choice("model.network.head", head, Head)
        if num_classes is None or image_shape is None:
            raise UsageError("model.network.num_classes and model.network.image_shape must be set outside of a fit")
        _check(backbone, image_shape, width, head, dropout, weights)
        self.pooled = head == "pooled"
        channels, side, _ = image_shape
        self.features: nn.Module
        if is_body(backbone):
            self.features = build_backbone(
                backbone, levels=[5], width=width, weights=weights, in_channels=channels, option=_OPTION
            )
        elif backbone == "unet":
            self.features = ContractingPath(channels, scale_channels(64, width))
        elif backbone.startswith("yolo"):
            self.features = build_yolo_features(cast(Preset, backbone.removeprefix("yolo_")), channels, width)
        elif self.pooled:
            self.features = build_features(cast(Backbone, backbone), channels, width)
        else:
            whole = Classifier(cast(Backbone, backbone), num_classes, side, channels, width)
            self.features, self.classifier = whole.features, whole.classifier
        if self.pooled:
            self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(_channels(self.features), num_classes))
        for layer in self.classifier:
            if isinstance(layer, nn.Dropout) and dropout is not None:
                layer.p = dropout
        self.expected_normalization: Normalization | None = (
            None if backbone.startswith(_UNPUBLISHED) else normalization_of(backbone).adapt(channels)
        )
        self.pretrained_layers: list[str] = []
        if weights == "imagenet":
            self._load(backbone, width, channels)

    def _load(self, backbone: ClassifierBackbone, width: float, channels: int) -> None:
        """Load ImageNet weights: of AlexNet and VGG all, of others the last layer, since their body has the rest."""
        linear = self.classifier[-1]
        if not is_body(backbone):
            state = imagenet_weights(backbone, width, channels, option=f"{_OPTION}.weights")
            if self.pooled:
                self.features.load_state_dict(_within("features", state))
            else:
                rule = (
                    f"{_OPTION}.head must be pooled with {_OPTION}.weights imagenet unless images have 224 x 224 pixels"
                )
                load_all_but_last_layer(self, state, rule)
        else:
            state = fit_channels(fetch_imagenet_weights(backbone, f"{_OPTION}.weights"), channels)
        last = _within(last_layer(state), state)
        if last["weight"].shape == linear.weight.shape:
            linear.load_state_dict(last)
        self.pretrained_layers = layers_with_values_of(self, [state])

    def forward(self, x: Tensor) -> Tensor:
        x = self.features.last_map(x) if isinstance(self.features, Body) else self.features(x)
        return self.classifier(x.mean((2, 3)) if self.pooled else torch.flatten(x, 1))


def _channels(features: nn.Module) -> int:
    """Return the channels of the last map of features."""
    if isinstance(features, Body):
        return features.channels[-1]
    return [layer.out_channels for layer in features.modules() if isinstance(layer, nn.Conv2d)][-1]


def _within(module: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a module of a network, by their names within it."""
    return {name.removeprefix(f"{module}."): value for name, value in state.items() if name.startswith(f"{module}.")}


def _check(
    backbone: ClassifierBackbone,
    image_shape: tuple[int, int, int],
    width: float,
    head: Head,
    dropout: float | None,
    weights: Weights | None,
) -> None:
    known = [name for choice in get_args(ClassifierBackbone) for name in (get_args(choice) or [choice])]
    if backbone not in known:
        raise UsageError(f"model.network.backbone must be one of {', '.join(known)}, got {backbone!r}")
    if width <= 0:
        raise UsageError(f"model.network.width must be a factor above 0, got {width}")
    if weights is not None and backbone.startswith(_UNPUBLISHED):
        raise UsageError(f"model.network.weights must be null for {backbone}: ImageNet weights of it are not published")
    if dropout is not None and not 0 <= dropout < 1:
        raise UsageError(f"model.network.dropout must be in [0, 1), got {dropout}")
    _, height, columns = image_shape
    least = next((side for name, side in _SMALLEST.items() if backbone.startswith(name)), 1)
    if min(height, columns) < least:
        raise UsageError(
            f"{backbone} needs images of at least {least} x {least} pixels, got {height} x {columns}; enlarge them "
            "(data.size, or data.side of Shapes), or choose another model.network.backbone"
        )
    connected = get_args(Backbone)
    if head == "connected" and (backbone not in connected or height != columns):
        raise UsageError(
            "model.network.head must be pooled for images that are not square and for backbones other than "
            f"{', '.join(connected)}, got connected for {backbone} and {height} x {columns} pixels"
        )
