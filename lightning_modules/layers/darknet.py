"""Convolutions of YOLO, version 1, which its authors pretrain as a classifier."""

import math
from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from torch import Tensor, nn

from darkroom.lightning_modules.layers.backbones import scale_channels

Preset = Literal["paper", "darknet", "tiny"]
Layers = Sequence[tuple[int, int, int] | None]  # channels, kernel, stride of a convolution; None: a pooling
SLOPE = 0.1  # of the leaky ReLU (Redmon et al. 2016, equation 2)
CHANNELS = 1024  # of the features of every preset, at width 1

_POOL = None
_GOOGLENET_LIKE = (
    (64, 7, 2), _POOL,
    (192, 3, 1), _POOL,
    (128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1), _POOL,
    *((256, 1, 1), (512, 3, 1)) * 4, (512, 1, 1), (1024, 3, 1), _POOL,
    *((512, 1, 1), (1024, 3, 1)) * 2,
)  # fmt: skip
_SMALL = tuple(layer for channels in (16, 32, 64, 128, 256, 512) for layer in ((channels, 3, 1), _POOL))
_FEATURES: dict[Preset, Layers] = {
    "paper": _GOOGLENET_LIKE,
    "darknet": _GOOGLENET_LIKE,
    "tiny": (*_SMALL, (1024, 3, 1)),
}


class Weighted(Protocol):
    """Layer with a weight and perhaps a bias."""

    @property
    def weight(self) -> Tensor:
        """Weight, initialized in place."""
        ...

    @property
    def bias(self) -> Tensor | None:
        """Bias, if the layer has one."""
        ...


Layer = TypeVar("Layer", bound=Weighted)


def init_leaky(layer: Layer, inputs: int) -> Layer:
    """Initialize a layer with weights that keep the variance through leaky ReLUs, and biases of 0; return it."""
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (1 + SLOPE**2) / inputs))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def build_convolutions(layers: Layers, channels: int, width: float, batch_norm: bool) -> nn.Sequential:
    """Build convolutions with leaky ReLUs, and poolings that round odd sides up.

    Args:
        layers: channels, kernel and stride of each convolution; None: a pooling.
        channels: of the input.
        width: factor on the channels of every layer.
        batch_norm: normalize after every convolution, which has no bias then.
    """
    built: list[nn.Module] = []
    for layer in layers:
        if layer is None:
            built.append(nn.MaxPool2d(2, ceil_mode=True))  # keeps the last pixel of an odd side
            continue
        out, kernel, stride = scale_channels(layer[0], width), *layer[1:]
        convolution = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=not batch_norm)
        built += [init_leaky(convolution, channels * kernel**2), *([nn.BatchNorm2d(out)] if batch_norm else [])]
        built.append(nn.LeakyReLU(SLOPE, inplace=True))
        channels = out
    return nn.Sequential(*built)


def uses_batch_norm(preset: Preset) -> bool:
    """Return True if the convolutions of a preset have batch norm; the paper's have none."""
    return preset != "paper"


def build_yolo_features(preset: Preset, in_channels: int = 3, width: float = 1.0) -> nn.Sequential:
    """Build the pretrained convolutions: (B, C, H, W) -> (B, 1024 width, H', W').

    H' is H / 32 (paper, darknet) or H / 64 (tiny), rounded up.

    Args:
        preset: the paper's 20 convolutions, the same with batch norm, or the 7 of the authors' small network.
        in_channels: C.
        width: factor on the channels of every layer.
    """
    return build_convolutions(_FEATURES[preset], in_channels, width, uses_batch_norm(preset))
