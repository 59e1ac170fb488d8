"""EncoderUNet: U-Net whose contracting path is a classifier, which can start from ImageNet weights."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.body import build_backbone
from darkroom.lightning_modules.layers.contracting_path import DoubleConv
from darkroom.lightning_modules.layers.pretrained import Normalization, Weights, normalization_of
from darkroom.lightning_modules.layers.symbolic_sides import at_least
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from darkroom.lightning_modules.segmentation.geometry import mirror_pad
from darkroom.lightning_modules.segmentation.unet.unet import OutConv
from darkroom.lightning_modules.utils.initial_weights import layers_with_values_of
from darkroom.lightning_modules.utils.torchvision_weights import record_fetched_weights

# Smaller sides are mirrored up to this: batch norm needs several cells in the map of stride 32.
_SMALLEST = 64


class EncoderUNetNetwork(nn.Module):
    """U-Net on the maps of a classifier. (B, C, H, W) of any size -> logits (B, K, H, W).

    The skip connections are the classifier's maps of strides 2, 4, 8 and 16. The decoder starts from the map of stride 32.
    Each step enlarges the map to the size of the skip connection by nearest neighbours, concatenates both, and applies a
    DoubleConv. The last step, to the image's size, has no skip connection.

    Args:
        in_channels: C.
        num_classes: K.
        backbone: see ``build_backbone``; it needs maps of strides 2, 4, 8, 16 and 32.
        width: factor on the channels of the classifier.
        base_channels: channels of the decoder's last step; each coarser step has twice as many, up to 16 times.
        weights: imagenet: start the classifier from ImageNet weights.

    Raises:
        UsageError: an argument is out of its range, the classifier lacks a map, or weights are missing.

    Attributes:
        expected_normalization: mean and standard deviation of images for which the weights were trained; None: no weights.
        pretrained_layers: names of the layers that start from ImageNet weights.
    """

    initial_weight_arguments: ClassVar[tuple[str, ...]] = ("weights",)

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        backbone: str = "efficientnet_lite0",
        width: float = 1.0,
        base_channels: int = 16,
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("in_channels", in_channels),
            ("num_classes", num_classes),
            ("base_channels", base_channels),
        ):
            if value < 1:
                raise UsageError(f"model.{name} must be at least 1, got {value}")
        with record_fetched_weights() as fetched:
            self.body = build_backbone(backbone, (1, 2, 3, 4, 5), width, weights, in_channels=in_channels)
        self.pretrained_layers = layers_with_values_of(self, fetched)
        expected = normalization_of(backbone).adapt(in_channels) if weights == "imagenet" else None
        self.expected_normalization: Normalization | None = expected
        *skips, channels = self.body.channels
        self.decoder = nn.ModuleList()
        for step, skip in enumerate([*reversed(skips), 0]):
            out = base_channels * 2 ** (len(skips) - step)
            self.decoder.append(DoubleConv(channels + skip, out))
            channels = out
        self.outc = OutConv(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = mirror_pad(x, 0, at_least(_SMALLEST - height, 0), 0, at_least(_SMALLEST - width, 0))
        size = x.shape[-2:]
        *skips, x = self.body(x).values()
        *steps, last = self.decoder
        for step, skip in zip(steps, reversed(skips), strict=True):
            x = step(torch.cat([F.interpolate(x, skip.shape[-2:]), skip], 1))
        return self.outc(last(F.interpolate(x, size)))[..., :height, :width]


class EncoderUNet(SemanticSegmentation):
    """U-Net with a classifier as its contracting path, which starts from ImageNet weights or from ``init_from``.

    Ronneberger et al. 2015, with a pretrained encoder as in TernausNet (Iglovikov & Shvets 2018).

    Args:
        in_channels: channels of the images; None: from the data on the command line, 3 in Python.
        num_classes: classes, background included; None: from the data on the command line, 2 in Python.
        backbone: resnet18, resnet34, resnet50, mobilenet_v2, efficientnet_lite0, or another classifier of torchvision that
            has maps of strides 2, 4, 8, 16 and 32.
        width: factor on the channels of the backbone.
        base_channels: channels of the decoder's last step; each coarser step has twice as many, up to 16 times.
        weights: imagenet: start the backbone from ImageNet weights, at width 1; a fit is refused if ``data.mean`` and
            ``data.std`` are not those of the weights.
        others: see SemanticSegmentation; ``init_from`` takes an ImageClassifier with the same backbone.
    """

    initial_weight_arguments = ("weights",)
    network: EncoderUNetNetwork

    def __init__(
        self,
        in_channels: int | None = None,
        num_classes: int | None = None,
        backbone: str = "efficientnet_lite0",
        width: float = 1.0,
        base_channels: int = 16,
        weights: Weights | None = None,
        **kwargs: Any,
    ) -> None:
        num_classes = 2 if num_classes is None else num_classes
        in_channels = 3 if in_channels is None else in_channels
        network = EncoderUNetNetwork(
            in_channels=in_channels,
            num_classes=num_classes,
            backbone=backbone,
            width=width,
            base_channels=base_channels,
            weights=weights,
        )
        super().__init__(network, num_classes=num_classes, **kwargs)
