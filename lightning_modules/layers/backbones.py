"""Classifiers that segmentation networks are made of: torchvision's AlexNet and VGG, of any width and window."""

from typing import Literal, get_args

import torch
import torchvision
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.torchvision_weights import published

Backbone = Literal[
    "alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"
]  # fmt: skip
Weights = Literal["imagenet"]
# What torchvision's ImageNet weights expect to be subtracted from, and divided out of, pictures in [0, 1].
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def scaled(channels: int, width: float) -> int:
    """Channels of a layer in a network ``width`` times as wide."""
    return max(1, round(channels * width))


def _template(backbone: Backbone) -> nn.Module:
    if backbone not in get_args(Backbone):
        raise UsageError(f"model.backbone is {backbone}; it can be {', '.join(get_args(Backbone))}")
    with torch.device("meta"):
        return getattr(torchvision.models, backbone)()


def features(backbone: Backbone, in_channels: int = 3, width: float = 1.0) -> nn.Sequential:
    """The convolutional part of a torchvision classifier, (B, C, H, W) -> (B, 512 width, H / 32, W / 32).

    Same layers in the same places, so that names and, at width 1, shapes of the parameters are torchvision's.

    Args:
        backbone: which classifier.
        in_channels: C.
        width: factor on the channels of every layer; 1 is the paper's.
    """
    if width <= 0:
        raise UsageError(f"model.width is {width}; it is a factor on the channels of every layer, above 0")
    layers: list[nn.Module] = []
    channels = in_channels
    for layer in _template(backbone).features:
        if isinstance(layer, nn.Conv2d):
            out = scaled(layer.out_channels, width)
            layer = nn.Conv2d(channels, out, layer.kernel_size, layer.stride, layer.padding)
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            channels = out
        elif isinstance(layer, nn.BatchNorm2d):
            layer = nn.BatchNorm2d(channels)
        layers.append(layer)
    return nn.Sequential(*layers)


def pooled_side(backbone: Backbone) -> int:
    """Side of the map that the classifier's first Linear layer sees at 224 pixels: 7 for VGG, 6 for AlexNet."""
    return _template(backbone).avgpool.output_size[0]


class Classifier(nn.Module):
    """AlexNet or VGG for windows of any size: features, then three Linear layers. (B, C, window, window) -> (B, K).

    Args:
        backbone: which classifier.
        num_classes: K.
        window: side of its input in pixels; 224 is the papers'.
        in_channels: C.
        width: factor on the channels of every layer.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, window: int = 224, in_channels: int = 3, width: float = 1.0
    ) -> None:
        super().__init__()
        self.features = features(backbone, in_channels, width)
        with torch.device("meta"):
            try:
                channels, *map_size = features(backbone, 1, width)(torch.empty(2, 1, window, window)).shape[1:]
            except RuntimeError:
                raise UsageError(f"model.window is {window}; {backbone} needs at least {_smallest(backbone)}") from None
        hidden = scaled(4096, width)
        self.classifier = nn.Sequential()
        for index, layer in enumerate(_template(backbone).classifier):
            if isinstance(layer, nn.Linear):
                inputs = channels * map_size[0] * map_size[1] if not len(self._linears()) else hidden
                layer = nn.Linear(inputs, num_classes if layer.out_features == 1000 else hidden)
            self.classifier.add_module(str(index), layer)

    def _linears(self) -> list[nn.Linear]:
        return [layer for layer in self.classifier if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def _smallest(backbone: Backbone) -> int:
    return 63 if backbone == "alexnet" else 32


def imagenet_weights(backbone: Backbone, width: float, in_channels: int) -> dict[str, Tensor]:
    """torchvision's ImageNet weights of a backbone; downloaded unless they lie in torch's hub folder already."""
    if width != 1 or in_channels != 3:
        raise UsageError(
            f"model.weights imagenet is for width 1 and 3 channels, not width {width} and {in_channels} channels"
        )
    return published(torchvision.models.get_model_weights(backbone).DEFAULT)


def load_all_but_the_answer(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads the weights of a classifier of other classes: all of them but those of the last layer."""
    last = list(state)[-1].rpartition(".")[0]
    ours = network.state_dict()
    if any(ours.get(name, value).shape != value.shape for name, value in state.items() if not name.startswith(last)):
        raise UsageError("model.weights imagenet needs model.window 224")
    network.load_state_dict({name: value for name, value in state.items() if not name.startswith(last)}, strict=False)
