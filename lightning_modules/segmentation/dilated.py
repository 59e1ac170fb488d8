"""Dilated convolutions (Yu & Koltun 2016): a front end of full resolution, a context module of large receptive field."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import build_features, pooled_side, scale_channels, zero_bias
from darkroom.lightning_modules.layers.body import FeatureBackbone, build_backbone, is_body, refuse_window
from darkroom.lightning_modules.layers.dilation import dilate_body
from darkroom.lightning_modules.layers.pretrained import Weights, imagenet_weights, normalization_of
from darkroom.lightning_modules.layers.symbolic_sides import ceil_div
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from darkroom.lightning_modules.segmentation.geometry import mirror_pad, mirror_to_grid
from darkroom.lightning_modules.segmentation.upsampling import MapUpsampling, aligned_upsampling, crop
from darkroom.lightning_modules.utils.arguments import check_choice

VGG = Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
DilatedBackbone = Literal[VGG, FeatureBackbone]

# Table 1: dilations of the 3x3 layers; channels of the layers, the last one 1x1, as multiples of C.
_DILATIONS = (1, 1, 2, 4, 8, 16, 1)
_CHANNELS = {"basic": (1, 1, 1, 1, 1, 1, 1, 1), "large": (2, 2, 4, 8, 16, 32, 32, 1)}


class FrontEnd(nn.Module):
    """VGG with dilation instead of its last two poolings (section 4): (B, C, H, W) -> scores (B, K, H', W') at stride 8.

    Args:
        in_channels: C.
        num_classes: K.
        backbone: a VGG; the paper's is vgg16.
        width: factor on the channels of every layer.
        window: side of the classifier's input in pixels, a multiple of 32.
        padded: zero padding that keeps H' = H / 8; without, H' = (H - 372) / 8 for vgg16.
        dropout: after the two convolutions that were fully connected layers.

    Attributes:
        margin: pixels of the image that each side loses.
        shift: pixel within the margin on which the first cell lies: the centre of the 8 that three poolings combine.
    """

    shift = 3.5

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        backbone: VGG,
        width: float,
        window: int,
        padded: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.features = build_features(backbone, in_channels, width)
        pools = 0
        for index, layer in enumerate(self.features):
            if isinstance(layer, nn.MaxPool2d):
                pools += 1
                if pools > 3:
                    self.features[index] = nn.Identity()  # keeps the names of the later layers
            elif isinstance(layer, nn.Conv2d):
                dilation = 2 if pools > 3 else 1  # a removed pooling doubles the dilation of all later layers
                layer.dilation, layer.padding = (dilation, dilation), (dilation * padded, dilation * padded)
        hidden = scale_channels(4096, width)
        kernel = pooled_side(backbone, window)
        padding = 2 * (kernel - 1) * padded
        self.fc6 = nn.Conv2d(scale_channels(512, width), hidden, kernel, dilation=4, padding=padding)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.score = nn.Conv2d(hidden, num_classes, 1)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(dropout)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            zero_bias(layer)
        nn.init.normal_(self.score.weight, std=0.001)
        zero_bias(self.score)
        self.margin = 0 if padded else self._lost_pixels() // 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = self.dropout(self.relu(self.fc6(x)))
        x = self.dropout(self.relu(self.fc7(x)))
        return self.score(x)

    def _lost_pixels(self) -> int:
        """Return the pixels that the unpadded front end loses along each side: 372 for vgg16."""
        lost, stride = 0, 1
        for layer in [*self.features, self.fc6]:
            if isinstance(layer, nn.Conv2d):
                lost += stride * layer.dilation[0] * (layer.kernel_size[0] - 1)
            elif isinstance(layer, nn.MaxPool2d):
                stride *= 2
        return lost

    def load_classifier(self, state: dict[str, Tensor]) -> None:
        """Load the weights of torchvision's classifier: its first two Linear layers become fc6 and fc7."""
        ours = {name: value for name, value in state.items() if name.startswith("features")}
        for name, layer, linear in (("fc6", self.fc6, "classifier.0"), ("fc7", self.fc7, "classifier.3")):
            ours[f"{name}.weight"] = state[f"{linear}.weight"].view_as(layer.weight)
            ours[f"{name}.bias"] = state[f"{linear}.bias"]
        self.load_state_dict(ours, strict=False)


class BodyFrontEnd(nn.Module):
    """Dilated body of a classifier and a 1x1 convolution: (B, C, H, W) -> scores (B, K, H / 8, W / 8), rounded up.

    Args:
        in_channels: C.
        num_classes: K.
        backbone: a classifier without fully connected layers.
        width: factor on the channels of every layer of the body.
        dropout: of the body's last map.

    Attributes:
        margin: 0, as the body pads.
        shift: pixel on which the first cell lies, in images with sides of 32 n + 1.
    """

    margin, shift = 0, 0.0

    def __init__(
        self, in_channels: int, num_classes: int, backbone: FeatureBackbone, width: float, dropout: float
    ) -> None:
        super().__init__()
        self.body = dilate_body(build_backbone(backbone, [5], width, in_channels=in_channels), stride=8)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Conv2d(self.body.channels[-1], num_classes, 1)
        nn.init.normal_(self.score.weight, std=0.001)
        zero_bias(self.score)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.dropout(self.body.last_map(x)))

    def load_classifier(self, state: dict[str, Tensor]) -> None:
        """Load the layers of the body from the weights of a whole classifier."""
        self.body.load_classifier(state)


class ContextModule(nn.Module):
    """Seven 3x3 layers of growing dilation and one 1x1 (table 1): (B, C, H, W) -> the same shape, receptive field 67 x 67.

    Starts as the identity (equations 4 and 5), so that it can be added to a trained front end.

    Args:
        channels: C, the classes.
        kind: "basic" keeps C channels throughout, "large" has up to 32 C.
    """

    def __init__(self, channels: int, kind: Literal["basic", "large"] = "basic") -> None:
        super().__init__()
        widths = [channels, *(channels * factor for factor in _CHANNELS[kind])]
        layers: list[nn.Module] = []
        for before, after, dilation in zip(widths, widths[1:], _DILATIONS, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)]
        layers.append(nn.Conv2d(widths[-2], widths[-1], 1))
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                self._initialize_identity(layer, channels)
        self.layers = nn.Sequential(*layers)

    @staticmethod
    @torch.no_grad()
    def _initialize_identity(layer: nn.Conv2d, channels: int, noise: float = 0.01) -> None:
        """Initialize by equation 5 (equation 4 for equal widths): channel a maps to the channels b of the same class."""
        nn.init.normal_(layer.weight, std=noise * channels / layer.out_channels)
        zero_bias(layer)
        class_of_a = torch.arange(layer.in_channels) * channels // layer.in_channels
        class_of_b = torch.arange(layer.out_channels) * channels // layer.out_channels
        same = class_of_b[:, None] == class_of_a
        middle = layer.kernel_size[0] // 2
        centre = layer.weight[:, :, middle, middle]
        centre.copy_(torch.where(same, channels / layer.out_channels, centre))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class DilatedNetwork(nn.Module):
    """Front end, context module, upsampling by 8.

    With reflected borders, as in the paper, images have a margin of 186 pixels (vgg16), and the logits cover the area
    within it; padded, (B, C, H, W) of any size -> logits (B, K, H, W).

    Args:
        in_channels: C.
        num_classes: K.
        backbone: a VGG; the paper's is vgg16. Or a ``FeatureBackbone``, padded only.
        width: factor on the channels of the front end.
        window: side of a VGG's input in pixels, a multiple of 32; 224 is the paper's.
        context: "basic", "large" or none.
        border: "reflected" (the paper's: no convolution of the front end pads) or "padded" with zeros, much cheaper for
            small images.
        upsampling: from stride 8 to pixels: bilinear (constant, as the paper's), transposed (learned) or nearest.
        freeze_front_end: train the context module only, on the front end's scores in eval mode.
        dropout: after the front end's fc6 and fc7, or of a body's last map.
        aux: add a loss of the front end's own scores. Without it a class whose scores the context module's ReLUs cut off at
            the start gets no gradient. The paper trains one after the other instead.
    """

    front: FrontEnd | BodyFrontEnd

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        backbone: DilatedBackbone = "vgg16",
        width: float = 1.0,
        window: int = 224,
        context: Literal["basic", "large"] | None = "basic",
        border: Literal["reflected", "padded"] = "reflected",
        upsampling: MapUpsampling = "bilinear",
        freeze_front_end: bool = False,
        dropout: float = 0.5,
        aux: bool = False,
    ) -> None:
        super().__init__()
        check_choice("model.backbone", backbone, DilatedBackbone)
        if is_body(backbone):
            refuse_window(backbone, window)
            if border != "padded":
                raise UsageError(
                    f"model.border must be padded with model.backbone {backbone}, whose convolutions pad, got {border}"
                )
            self.front = BodyFrontEnd(in_channels, num_classes, backbone, width, dropout)
        else:
            self.front = FrontEnd(
                in_channels=in_channels,
                num_classes=num_classes,
                backbone=backbone,
                width=width,
                window=window,
                padded=border == "padded",
                dropout=dropout,
            )
        self.context = ContextModule(num_classes, context) if context else nn.Identity()
        self.up, self.offset = aligned_upsampling(upsampling, num_classes, 8, self.front.shift)
        self.margin = self.front.margin
        self.freeze_front_end, self.aux = freeze_front_end, aux
        if freeze_front_end:
            self.front.requires_grad_(False)

    def input_size(self, size: int) -> int:
        """Return the side of an image, margins included, that gives logits for at least ``size`` pixels."""
        return ceil_div(size, 8) * 8 + 2 * self.margin

    def train(self, mode: bool = True) -> "DilatedNetwork":
        """Set training or evaluation mode; a frozen front end stays in evaluation mode."""
        super().train(mode)
        if self.freeze_front_end:
            self.front.eval()
        return self

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        height, width = (side - 2 * self.margin for side in x.shape[-2:])
        if min(height, width) < 1:
            raise UsageError(
                f"an image of {x.shape[-2]} x {x.shape[-1]} pixels is smaller than DilatedNet's margins: both sides must "
                f"be more than {2 * self.margin} (DilatedNet adds the margins by reflection)"
            )
        on_grid = isinstance(self.front, BodyFrontEnd)
        x = mirror_to_grid(x) if on_grid else mirror_pad(x, 0, -height % 8, 0, -width % 8)
        scores = self.front(x)
        logits = crop(self.up(self.context(scores)), self.offset, (height, width))
        if self.aux and self.training:
            return {"out": logits, "aux": crop(self.up(scores), self.offset, (height, width))}
        return logits


class DilatedNet(SemanticSegmentation):
    """Dilated convolutions: full resolution and exponentially growing context by dilation (Yu & Koltun 2016).

    The paper trains the front end (``context: null``), then the context module on it (``init_from``,
    ``freeze_front_end``), then both: configs/paper/segmentation/dilated_{front_end,context,joint}.yaml.

    A ResNet, MobileNetV2 or EfficientNet-Lite0 is dilated from stride 8 on and has no fc6 and fc7: ``BodyFrontEnd``.

    Args:
        in_channels: channels of the images; None: from the data on the command line, 3 in Python.
        num_classes: classes, background included.
        backbone: a VGG, the paper's is vgg16; or a classifier that needs ``border: padded``, of which mobilenet_v2 and
            efficientnet_lite0 have ImageNet weights without a download.
        width: factor on the channels of the front end.
        window: side of a VGG's input in pixels, a multiple of 32; 224 is the paper's. Smaller ones suit smaller images, and
            take less time.
        context: the context module: basic, large or none (null).
        border: reflected as in the paper, or padded.
        upsampling: bilinear (constant, as the paper's), transposed (learned) or nearest.
        freeze_front_end: train the context module alone.
        dropout: after the front end's fc6 and fc7, or of the body's last map.
        aux: add a loss of the front end's own scores. Without it a class whose scores the context module's ReLUs cut off at
            the start gets no gradient. The paper trains one after the other instead.
        weights: imagenet: start the backbone from ImageNet weights, at width 1; a fit is refused if ``data.mean`` and
            ``data.std`` are not those of the weights. Those of VGG and ResNet are downloaded if this is set.
        others: see SemanticSegmentation; ``init_from`` also takes a classifier or an FCN with the same backbone. A context
            module that is not in the file starts as the identity.
    """

    initial_weight_arguments = ("weights",)
    network: DilatedNetwork

    def __init__(
        self,
        in_channels: int | None = None,
        num_classes: int | None = None,
        backbone: DilatedBackbone = "vgg16",
        width: float = 1.0,
        window: int = 224,
        context: Literal["basic", "large"] | None = "basic",
        border: Literal["reflected", "padded"] = "reflected",
        upsampling: MapUpsampling = "bilinear",
        freeze_front_end: bool = False,
        dropout: float = 0.5,
        aux: bool = False,
        weights: Weights | None = None,
        **kwargs: Any,
    ) -> None:
        num_classes = 2 if num_classes is None else num_classes
        in_channels = 3 if in_channels is None else in_channels
        if freeze_front_end and context is None:
            raise UsageError(
                "model.freeze_front_end must be false while model.context is null: nothing would be trained"
            )
        if aux and (freeze_front_end or context is None):
            raise UsageError("model.aux must be false without a context module or with a frozen front end")
        network = DilatedNetwork(
            in_channels=in_channels,
            num_classes=num_classes,
            backbone=backbone,
            width=width,
            window=window,
            context=context,
            border=border,
            upsampling=upsampling,
            freeze_front_end=freeze_front_end,
            dropout=dropout,
            aux=aux,
        )
        super().__init__(network, num_classes=num_classes, **kwargs)
        if weights == "imagenet":
            network.front.load_classifier(imagenet_weights(backbone, width, in_channels, window))
            self.expected_normalization = normalization_of(backbone).adapt(in_channels)
