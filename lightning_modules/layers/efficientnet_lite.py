"""EfficientNet-Lite0: EfficientNet-B0 for phones, without squeeze-and-excitation and with ReLU6."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

# Kernel, stride of the first block, expansion, channels and number of blocks of each stage (Tan & Le 2019, table 1).
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM, _HEAD = 32, 1280  # channels, which the Lite versions do not scale


class SamePadding(nn.Module):
    """Zero padding before a convolution of stride 2, as TensorFlow's "same": an odd pixel goes to the right and the bottom.

    Args:
        kernel: odd side of the convolution's kernel.

    Attributes:
        dilation: of the convolution, if its stride was removed, see ``dilate_body``; None: it has its stride of 2.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.dilation: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        # Sides by index: torch.fx, which traces classifiers, cannot iterate over a shape.
        (top, bottom), (left, right) = self._amounts(x.shape[-2]), self._amounts(x.shape[-1])
        return F.pad(x, (left, right, top, bottom))

    def _amounts(self, side: int) -> tuple[int, int]:
        """Return the zeros before and after a side."""
        dilation = self.dilation or 1
        cells = (side + dilation - 1) // dilation  # of the map that the convolution has with all strides
        amount = self.kernel - 2 + cells % 2
        before = amount // 2 * dilation
        return before, amount - before if self.dilation is None else (self.kernel - 1) * dilation - before


class InvertedResidual(nn.Module):
    """Expansion by a 1 x 1 convolution, depthwise convolution, projection (Sandler et al. 2018).

    The parameters have timm's names.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: odd side of the depthwise kernel.
        stride: 1 or 2.
        expansion: factor from the input's to the depthwise convolution's channels; 1: no expansion.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.adds = stride == 1 and in_channels == out_channels
        hidden = in_channels * expansion
        padding = 0 if stride == 2 else kernel // 2
        layers: list[tuple[str, nn.Module]] = []
        if expansion != 1:
            layers += [("conv_pw", _conv(in_channels, hidden)), ("bn1", _norm(hidden)), ("act1", _relu6())]
        layers += [("pad", SamePadding(kernel))] if stride == 2 else []
        layers.append(("conv_dw", nn.Conv2d(hidden, hidden, kernel, stride, padding, groups=hidden, bias=False)))
        # timm counts the norms of a block, and names the projection of a block without expansion conv_pw.
        first, project = (1, "conv_pw") if expansion == 1 else (2, "conv_pwl")
        layers += [(f"bn{first}", _norm(hidden)), (f"act{first}", _relu6())]
        layers += [(project, _conv(hidden, out_channels)), (f"bn{first + 1}", _norm(out_channels))]
        for name, layer in layers:
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in self.children():
            out = layer(out)
        return x + out if self.adds else out


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0, a classifier of 4,652,008 parameters at 1,000 classes. (B, 3, H, W) -> logits (B, K).

    The block table of EfficientNet-B0 (Tan & Le 2019), without squeeze-and-excitation, with ReLU6 and TensorFlow's padding,
    as Google released it. Parameters have the names of timm's ``tf_efficientnet_lite0``.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.pad = SamePadding(3)
        self.conv_stem = nn.Conv2d(3, _STEM, 3, stride=2, bias=False)
        self.bn1, self.act1 = _norm(_STEM), _relu6()
        stages, channels = [], _STEM
        for kernel, stride, expansion, out, count in _STAGES:
            blocks = [InvertedResidual(channels, out, kernel, stride, expansion)]
            blocks += [InvertedResidual(out, out, kernel, 1, expansion) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = out
        self.blocks = nn.Sequential(*stages)
        self.conv_head = _conv(channels, _HEAD)
        self.bn2, self.act2 = _norm(_HEAD), _relu6()
        self.global_pool = nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1)))
        self.classifier = nn.Linear(_HEAD, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_stem(self.pad(x))))
        x = self.act2(self.bn2(self.conv_head(self.blocks(x))))
        return self.classifier(self.global_pool(x))


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)  # the epsilon of the released weights


def _relu6() -> nn.ReLU6:
    return nn.ReLU6(inplace=True)
