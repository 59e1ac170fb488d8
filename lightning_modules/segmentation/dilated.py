"""Dilated convolutions (Yu & Koltun 2016): a front end of full resolution, a context module of large receptive field."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.backbones import build_features, pooled_side, scale_channels, zero_bias
from darkroom.lightning_modules.layers.pretrained import Weights, imagenet_weights, normalization_of
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from darkroom.lightning_modules.segmentation.geometry import mirror_pad
from darkroom.lightning_modules.segmentation.upsampling import MapUpsampling, build_upsampling

VGG = Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]

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
    """

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

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = self.dropout(self.relu(self.fc6(x)))
        x = self.dropout(self.relu(self.fc7(x)))
        return self.score(x)


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
        backbone: a VGG; the paper's is vgg16.
        width: factor on the channels of the front end.
        window: side of the classifier's input in pixels, a multiple of 32; 224 is the paper's.
        context: "basic", "large" or none.
        border: "reflected" (the paper's: no convolution of the front end pads) or "padded" with zeros, much cheaper for
            small images.
        upsampling: from stride 8 to pixels: bilinear (constant, as the paper's), transposed (learned) or nearest.
        freeze_front_end: train the context module only, on the front end's scores in eval mode.
        dropout: after the front end's fc6 and fc7.
        aux: add a loss of the front end's own scores. Without it a class whose scores the context module's ReLUs cut off at
            the start gets no gradient. The paper trains one after the other instead.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        backbone: VGG = "vgg16",
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
        self.up = build_upsampling(upsampling, num_classes, 8)
        self.margin = 0 if border == "padded" else self._lost_pixels() // 2
        self.freeze_front_end, self.aux = freeze_front_end, aux
        if freeze_front_end:
            self.front.requires_grad_(False)

    def _lost_pixels(self) -> int:
        """Return the pixels that the unpadded front end loses along each side: 372 for vgg16."""
        lost, stride = 0, 1
        for layer in [*self.front.features, self.front.fc6]:
            if isinstance(layer, nn.Conv2d):
                lost += stride * layer.dilation[0] * (layer.kernel_size[0] - 1)
            elif isinstance(layer, nn.MaxPool2d):
                stride *= 2
        return lost

    def input_size(self, size: int) -> int:
        """Return the side of an image, margins included, that gives logits for at least ``size`` pixels."""
        return -(-size // 8) * 8 + 2 * self.margin

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
        x = mirror_pad(x, 0, -height % 8, 0, -width % 8)
        scores = self.front(x)
        logits = self._to_pixels(self.context(scores), height, width)
        if self.aux and self.training:
            return {"out": logits, "aux": self._to_pixels(scores, height, width)}
        return logits

    def _to_pixels(self, scores: Tensor, height: int, width: int) -> Tensor:
        x = self.up(scores)
        cut = (x.shape[-1] - (width + -width % 8)) // 2
        return x[..., cut : cut + height, cut : cut + width]


class DilatedNet(SemanticSegmentation):
    """Dilated convolutions: full resolution and exponentially growing context by dilation (Yu & Koltun 2016).

    The paper trains the front end (``context: null``), then the context module on it (``init_from``,
    ``freeze_front_end``), then both: configs/paper/segmentation/dilated_{front_end,context,joint}.yaml.

    Args:
        in_channels: channels of the images; None: from the data on the command line, 3 in Python.
        num_classes: classes, background included.
        backbone: a VGG; the paper's is vgg16.
        width: factor on the channels of the front end.
        window: side of the classifier's input in pixels, a multiple of 32; 224 is the paper's. Smaller ones suit smaller
            images, and take less time.
        context: the context module: basic, large or none (null).
        border: reflected as in the paper, or padded.
        upsampling: bilinear (constant, as the paper's), transposed (learned) or nearest.
        freeze_front_end: train the context module alone.
        dropout: after the front end's fc6 and fc7.
        aux: add a loss of the front end's own scores. Without it a class whose scores the context module's ReLUs cut off at
            the start gets no gradient. The paper trains one after the other instead.
        weights: start from torchvision's ImageNet weights; they are downloaded only if this is set.
        others: see SemanticSegmentation; a context module that is not in the file of
            ``init_from`` starts as the identity.
    """

    initial_weight_arguments = ("weights",)

    def __init__(
        self,
        in_channels: int | None = None,
        num_classes: int | None = None,
        backbone: VGG = "vgg16",
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
            self.expected_normalization = normalization_of(backbone).adapt(in_channels)
            state = imagenet_weights(backbone, width, in_channels, window)
            front = network.front
            for name, layer, linear in (("fc6", front.fc6, "classifier.0"), ("fc7", front.fc7, "classifier.3")):
                state[f"{name}.weight"] = state[f"{linear}.weight"].view_as(layer.weight)
                state[f"{name}.bias"] = state[f"{linear}.bias"]
            network.front.load_state_dict(
                {name: value for name, value in state.items() if not name.startswith("classifier")}, strict=False
            )
