"""Fully convolutional networks (Long, Shelhamer, Darrell 2015): a convolutionalized classifier with finer layers."""

from typing import Any, Literal

from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import Backbone, build_features, pooled_side, scale_channels, zero_bias
from darkroom.lightning_modules.layers.body import FeatureBackbone, is_body, refuse_window
from darkroom.lightning_modules.layers.pretrained import Weights, imagenet_weights, normalization_of
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from darkroom.lightning_modules.segmentation.fcn.body_network import FCNBodyNetwork
from darkroom.lightning_modules.segmentation.fcn.skips import Stride, skip_scales
from darkroom.lightning_modules.segmentation.geometry import coordinate_map
from darkroom.lightning_modules.segmentation.upsampling import (
    MapUpsampling,
    aligned_upsampling,
    build_upsampling,
    crop,
    upsampling_size,
)
from darkroom.lightning_modules.utils.arguments import check_choice

FCNBackbone = Literal[Backbone, FeatureBackbone]


class FCNNetwork(nn.Module):
    """FCN-32s, -16s or -8s on AlexNet, CaffeNet or VGG. (B, C, H, W) of any size -> logits (B, K, H, W).

    The geometry is the paper's: the first convolution pads by 100, so that the classifier's window of 224 pixels fits into
    any image; poolings round up. A smaller window for small images has a smaller fc6, and half of the difference less
    padding. Scores of finer poolings are cropped to the coarser ones, upsampled by 2; the sum is upsampled to pixels and
    cropped to the image. The crops' offsets follow from strides and paddings.

    Args:
        in_channels: C.
        num_classes: K.
        backbone: the classifier; the paper's are vgg16 and caffenet, an AlexNet with grouped convolutions.
        stride: of the finest scores, in pixels.
        width: factor on the channels of every layer; the geometry stays.
        window: side of the classifier's input in pixels, a multiple of 32; 224 is the paper's. Stride 16 needs 96, stride 8
            needs 128.
        upsampling: constant bilinear kernels (as in the authors' networks), learned ones that start as these, or nearest.
        at_once: scale the finer poolings' activations down, to train a fine stride without the coarser stages (the paper's
            "at-once" training).
        dropout: after the two convolutions that were fully connected layers.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        backbone: Backbone = "vgg16",
        stride: Stride = 8,
        width: float = 1.0,
        window: int = 224,
        upsampling: MapUpsampling = "bilinear",
        at_once: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.scales = skip_scales(stride, at_once)
        kernel = pooled_side(backbone, window)
        least = {32: 32, 16: 96, 8: 128}[stride]  # below, the maps of finer poolings end before the coarse ones
        if window < least:
            raise UsageError(f"model.window must be at least {least} at model.stride {stride}, got {window}")
        border = 100 - (224 - window) // 2
        self.features = build_features(backbone, in_channels, width)
        pools = []
        for index, layer in enumerate(self.features):
            if isinstance(layer, nn.Conv2d) and index == 0:
                layer.padding = (border, border)
            elif isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
                pools.append(index)
        channels, hidden = self._channels(pools), scale_channels(4096, width)
        self.fc6 = nn.Conv2d(channels[-1], hidden, kernel)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.score = nn.Conv2d(hidden, num_classes, 1)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(dropout)

        self.skips = pools[-2 : -2 - len(self.scales) : -1]  # coarse to fine
        self.score_pools = nn.ModuleList(nn.Conv2d(channels[pools.index(i)], num_classes, 1) for i in self.skips)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        for layer in (self.score, *self.score_pools):  # as in the paper, scoring layers start at zero
            nn.init.zeros_(layer.weight)
        for layer in (self.fc6, self.fc7, self.score, *self.score_pools):
            zero_bias(layer)
        self._place(upsampling, num_classes, stride)

    def _channels(self, pools: list[int]) -> list[int]:
        convs = [(i, layer.out_channels) for i, layer in enumerate(self.features) if isinstance(layer, nn.Conv2d)]
        return [next(width for i, width in reversed(convs) if i < pool) for pool in pools]

    def _place(self, kind: MapUpsampling, num_classes: int, stride: int) -> None:
        """Build the upsampling layers and compute the offsets at which their outputs are cropped.

        A map whose cell i lies at S i + b of the image, upsampled by s with a kernel of k, has its cell u at
        (S / s) (u - (k - 1) / 2) + b.
        """
        coarse, shift = coordinate_map([*self.features, self.fc6])
        self.ups, self.offsets = nn.ModuleList(), []
        for skip in self.skips:
            fine, fine_shift = coordinate_map(self.features[: skip + 1])
            size = upsampling_size(kind, coarse // fine, (shift - fine_shift) / fine)
            self.ups.append(build_upsampling(kind, num_classes, coarse // fine, size))
            coarse, shift = fine, shift - fine * (size - 1) / 2
            self.offsets.append(int((shift - fine_shift) / fine))
        assert coarse == stride
        self.up, self.offset = aligned_upsampling(kind, num_classes, coarse, shift)

    def forward(self, x: Tensor) -> Tensor:
        size, pooled = x.shape[-2:], {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.skips:
                pooled[index] = x
        x = self.dropout(self.relu(self.fc6(x)))
        x = self.dropout(self.relu(self.fc7(x)))
        x = self.score(x)
        for i, (up, score_pool) in enumerate(zip(self.ups, self.score_pools, strict=True)):
            x = up(x)
            fine = score_pool(self.scales[i] * pooled[self.skips[i]])
            x = x + crop(fine, self.offsets[i], x.shape[-2:])
        return crop(self.up(x), self.offset, size)

    def load_classifier(self, state: dict[str, Tensor]) -> None:
        """Load the weights of torchvision's classifier: its first two Linear layers become fc6 and fc7."""
        linears = [name.removesuffix(".weight") for name in state if name.startswith("classifier") and "weight" in name]
        ours = {name: value for name, value in state.items() if name.startswith("features")}
        for (name, layer), linear in zip((("fc6", self.fc6), ("fc7", self.fc7)), linears, strict=False):
            ours[f"{name}.weight"] = state[f"{linear}.weight"].view_as(layer.weight)
            ours[f"{name}.bias"] = state[f"{linear}.bias"]
        self.load_state_dict(ours, strict=False)


class FCN(SemanticSegmentation):
    """FCN: a classifier as convolutions, whose coarse scores finer layers refine (Long et al. 2015).

    The paper trains 32s from ImageNet weights, then 16s from 32s and 8s from 16s, with a summed loss
    (``CrossEntropy(reduction="sum")``) and ``CaffeSGD``: configs/paper/segmentation/fcn32s.yaml, fcn16s.yaml, fcn8s.yaml.

    On a ResNet, MobileNetV2 or EfficientNet-Lite0, which have no fully connected layers, the network is ``FCNBodyNetwork``.

    Args:
        in_channels: channels of the images; None: from the data on the command line, 3 in Python.
        num_classes: classes, background included.
        backbone: the classifier; the paper's are vgg16 and caffenet, an AlexNet with grouped convolutions. mobilenet_v2 and
            efficientnet_lite0 have ImageNet weights without a download.
        stride: 32, 16 or 8: stride of the finest scores, in pixels.
        width: factor on the channels of every layer; the geometry stays.
        window: side of the classifier's input in pixels, a multiple of 32; 224 is the paper's. Smaller ones suit smaller
            images, and take less time. Only for AlexNet, CaffeNet and VGG.
        upsampling: bilinear (constant, as in the authors' networks), transposed (learned) or nearest.
        at_once: train a fine stride without the coarser stages.
        dropout: after fc6 and fc7, or of the map of stride 32.
        weights: imagenet: start the backbone from ImageNet weights, at width 1; a fit is refused if ``data.mean`` and
            ``data.std`` are not those of the weights. Those of AlexNet, VGG and ResNet are downloaded if this is set.
        others: see SemanticSegmentation; ``init_from`` takes a coarser FCN, whose finer scores start at zero, or a
            classifier with the same backbone.
    """

    initial_weight_arguments = ("weights",)
    network: FCNNetwork | FCNBodyNetwork

    def __init__(
        self,
        in_channels: int | None = None,
        num_classes: int | None = None,
        backbone: FCNBackbone = "vgg16",
        stride: Stride = 8,
        width: float = 1.0,
        window: int = 224,
        upsampling: MapUpsampling = "bilinear",
        at_once: bool = False,
        dropout: float = 0.5,
        weights: Weights | None = None,
        **kwargs: Any,
    ) -> None:
        num_classes = 2 if num_classes is None else num_classes
        in_channels = 3 if in_channels is None else in_channels
        check_choice("model.backbone", backbone, FCNBackbone)
        if is_body(backbone):
            refuse_window(backbone, window)
            network: FCNNetwork | FCNBodyNetwork = FCNBodyNetwork(
                in_channels=in_channels,
                num_classes=num_classes,
                backbone=backbone,
                stride=stride,
                width=width,
                upsampling=upsampling,
                at_once=at_once,
                dropout=dropout,
            )
        else:
            network = FCNNetwork(
                in_channels=in_channels,
                num_classes=num_classes,
                backbone=backbone,
                stride=stride,
                width=width,
                window=window,
                upsampling=upsampling,
                at_once=at_once,
                dropout=dropout,
            )
        super().__init__(network, num_classes=num_classes, **kwargs)
        if weights == "imagenet":
            network.load_classifier(imagenet_weights(backbone, width, in_channels, window))
            self.expected_normalization = normalization_of(backbone).adapt(in_channels)
