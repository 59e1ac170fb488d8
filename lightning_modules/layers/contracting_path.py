"""Contracting path of U-Net (Ronneberger, Fischer, Brox 2015), which is also a backbone of classifiers."""

from functools import partial
from typing import Literal

from torch import Tensor, nn, sym_max
from torch.compiler import is_exporting
from torch.nn import functional as F

from darkroom.lightning_modules.layers.backbones import zero_bias

Padding = Literal["same", "valid"]


class DoubleConv(nn.Module):
    """Two blocks of 3x3 convolution, batch norm, ReLU. (B, in, H, W) -> (B, out, H, W), or 4 pixels less if valid.

    Without batch norm the convolutions have biases, and weights from N(0, sqrt(2 / N)) (section 3; He et al. 2015).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mid_channels: int | None = None,
        padding: Padding = "same",
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in (
            (in_channels, mid_channels or out_channels),
            (mid_channels or out_channels, out_channels),
        ):
            conv = nn.Conv2d(before, after, 3, padding=int(padding == "same"), bias=not batch_norm)
            if not batch_norm:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                zero_bias(conv)
            layers += [conv, *([nn.BatchNorm2d(after)] if batch_norm else []), nn.ReLU(inplace=True)]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    """Step of the contracting path: halve the map, then DoubleConv."""

    def __init__(self, in_channels: int, out_channels: int, padding: Padding, batch_norm: bool) -> None:
        super().__init__()
        convolutions = DoubleConv(in_channels, out_channels, padding=padding, batch_norm=batch_norm)
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), convolutions)
        self.loses_border = padding == "valid"

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.loses_border or (not is_exporting() and min(height, width) > 1):
            return self.maxpool_conv(x)
        # A side of one pixel stays one pixel, so that any H x W is valid; exported graphs are of all sizes.
        x = F.max_pool2d(x, 2, ceil_mode=True)[..., : sym_max(1, height // 2), : sym_max(1, width // 2)]
        return self.maxpool_conv[1](x)


class ContractingPath(nn.Module):
    """Four steps down: (B, C, H, W) -> (B, bottom, H / 16, W / 16), or a little less if valid.

    Args:
        in_channels: C.
        base_channels: width of the first level; it doubles at each step.
        bottom_channels: of the last level; None: 16 times ``base_channels``.
        padding: "same" keeps the size of a level, "valid" convolutions lose their border.
        batch_norm: after every 3x3 convolution; without, they have biases.
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 64,
        bottom_channels: int | None = None,
        padding: Padding = "same",
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        c = base_channels
        down = partial(Down, padding=padding, batch_norm=batch_norm)
        self.inc = DoubleConv(in_channels, c, padding=padding, batch_norm=batch_norm)
        self.down1, self.down2 = down(c, 2 * c), down(2 * c, 4 * c)
        self.down3, self.down4 = down(4 * c, 8 * c), down(8 * c, bottom_channels or 16 * c)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Compute the maps of the five levels, the finest first."""
        maps = [self.inc(x)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            maps.append(down(maps[-1]))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)[-1]
