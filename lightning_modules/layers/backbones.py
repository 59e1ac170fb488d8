"""Classifiers as backbones: torchvision's AlexNet and VGG, and CaffeNet, of any width and window."""

from typing import Literal

import torch
import torchvision
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.arguments import check_choice

Backbone = Literal[
    "alexnet", "caffenet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"
]  # fmt: skip


def scale_channels(channels: int, width: float) -> int:
    """Multiply the channels of a layer by ``width``, rounded, at least 1."""
    return max(1, round(channels * width))


def copy_conv(conv: nn.Conv2d, in_channels: int, out_channels: int, groups: int = 1) -> nn.Conv2d:
    """Build a new convolution with the geometry of another, for other channels."""
    assert not isinstance(conv.padding, str)
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size=_pair(conv.kernel_size),
        stride=_pair(conv.stride),
        padding=_pair(conv.padding),
        dilation=_pair(conv.dilation),
        groups=groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
    )


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    height, width = values
    return height, width


def zero_bias(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> None:
    """Set the bias of a layer that has one to zero."""
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


class CaffeNet(nn.Module):
    """AlexNet as Caffe has it: grouped convolutions, and pooling before local response normalization.

    Krizhevsky et al. 2012, for one GPU; 60,965,224 parameters at 1,000 classes, where torchvision's AlexNet has 61,100,840.
    The parts are those of torchvision's.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()

        def relu() -> nn.ReLU:
            return nn.ReLU(inplace=True)

        self.features = nn.Sequential(
            *(nn.Conv2d(3, 96, 11, stride=4), relu(), nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5)),
            *(nn.Conv2d(96, 256, 5, padding=2, groups=2), relu(), nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5)),
            *(nn.Conv2d(256, 384, 3, padding=1), relu()),
            *(nn.Conv2d(384, 384, 3, padding=1, groups=2), relu()),
            *(nn.Conv2d(384, 256, 3, padding=1, groups=2), relu(), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(256 * 36, 4096), relu()),
            *(nn.Dropout(), nn.Linear(4096, 4096), relu(), nn.Linear(4096, num_classes)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def _template(backbone: Backbone) -> torchvision.models.AlexNet | torchvision.models.VGG | CaffeNet:
    check_choice("model.backbone", backbone, Backbone)
    with torch.device("meta"):
        return CaffeNet() if backbone == "caffenet" else torchvision.models.get_model(backbone)


def build_features(backbone: Backbone, in_channels: int = 3, width: float = 1.0) -> nn.Sequential:
    """Build the convolutional part of a classifier: (B, C, H, W) -> (B, 512 width, H / 32, W / 32).

    Names and, at width 1, shapes of the parameters are torchvision's.

    Args:
        backbone: AlexNet, CaffeNet (the AlexNet of Caffe) or a VGG.
        in_channels: C.
        width: factor on the channels of every layer; 1 is the paper's.
    """
    if width <= 0:
        raise UsageError(f"model.width must be a factor above 0, got {width}")
    layers: list[nn.Module] = []
    channels = in_channels
    for layer in _template(backbone).features:
        if isinstance(layer, nn.Conv2d):
            groups = 2 if backbone == "caffenet" else 1  # the channels of every layer are those of two groups
            out = groups * scale_channels(layer.out_channels // groups, width)
            layer = copy_conv(layer, channels, out, layer.groups)
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            zero_bias(layer)
            channels = layer.out_channels
        elif isinstance(layer, nn.BatchNorm2d):
            layer = nn.BatchNorm2d(channels)
        layers.append(layer)
    return nn.Sequential(*layers)


def pooled_side(backbone: Backbone, window: int = 224) -> int:
    """Return the side of the map before the classifier's first Linear layer: at 224 pixels 7 for VGG, else 6.

    Args:
        backbone: AlexNet, CaffeNet or a VGG.
        window: side of the classifier's input in pixels.

    Raises:
        UsageError: the window is not a multiple of 32, or too small for the backbone.
    """
    side = (7 if backbone.startswith("vgg") else 6) - (224 - window) // 32
    if window % 32 or side < 1:
        least = 32 if backbone.startswith("vgg") else 64
        raise UsageError(f"model.window must be a multiple of 32, at least {least} for {backbone}, got {window}")
    return side


class Classifier(nn.Module):
    """AlexNet, CaffeNet or VGG for windows of any size: (B, C, window, window) -> (B, K).

    Features, then three Linear layers.

    Args:
        backbone: AlexNet, CaffeNet or a VGG.
        num_classes: K.
        window: side of its input in pixels; 224 is the papers'.
        in_channels: C.
        width: factor on the channels of every layer.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, window: int = 224, in_channels: int = 3, width: float = 1.0
    ) -> None:
        super().__init__()
        self.features = build_features(backbone, in_channels, width)
        with torch.device("meta"):
            try:
                channels, *map_size = build_features(backbone, 1, width)(torch.empty(2, 1, window, window)).shape[1:]
            except RuntimeError:
                raise UsageError(
                    f"model.window must be at least {_smallest(backbone)} for {backbone}, got {window}"
                ) from None
        hidden = scale_channels(4096, width)
        self.classifier = nn.Sequential()
        for index, layer in enumerate(_template(backbone).classifier):
            if isinstance(layer, nn.Linear):
                inputs = channels * map_size[0] * map_size[1] if not len(self._linears()) else hidden
                layer = nn.Linear(inputs, num_classes if layer.out_features == 1000 else hidden)
            self.classifier.add_module(str(index), layer)

    @property
    def first(self) -> nn.Linear:
        """First Linear layer, whose input is the flattened map of the features."""
        return self._linears()[0]

    @property
    def last(self) -> nn.Linear:
        """Last Linear layer, whose outputs are the logits."""
        return self._linears()[-1]

    def _linears(self) -> list[nn.Linear]:
        return [layer for layer in self.classifier if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def _smallest(backbone: Backbone) -> int:
    return {"alexnet": 63, "caffenet": 67}.get(backbone, 32)
