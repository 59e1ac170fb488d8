"""U-Net (Ronneberger, Fischer, Brox 2015), padded, with batch norm: the network of the lecture."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from lightning_modules.segmentation.base import SemanticSegmentation


class DoubleConv(nn.Module):
    """Twice: 3x3 convolution (padded, no bias), batch norm, ReLU. (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int | None = None) -> None:
        super().__init__()
        mid_channels = mid_channels or out_channels
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, mid_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    """One step down the contracting path: halve the map, then DoubleConv."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        # A side of one pixel cannot be halved again: it is doubled by repeating its edge first, so any H x W goes in.
        missing = [max(0, 2 - side) for side in (x.shape[-1], x.shape[-2])]
        if any(missing):
            x = F.pad(x, (0, missing[0], 0, missing[1]), mode="replicate")
        return self.maxpool_conv(x)


class Up(nn.Module):
    """One step up the expanding path: double the map, put the skip connection beside it, then DoubleConv."""

    def __init__(self, in_channels: int, out_channels: int, bilinear: bool) -> None:
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(in_channels, out_channels, in_channels // 2)
        else:
            self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2)
            self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        # Halving rounds down: pad (or, after a side of one pixel, cut) to the skip's size.
        right, bottom = skip.shape[-1] - x.shape[-1], skip.shape[-2] - x.shape[-2]
        if right or bottom:
            x = F.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        return self.conv(torch.cat([skip, x], dim=1))


class OutConv(nn.Module):
    """1x1 convolution to the classes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UNetNetwork(nn.Module):
    """Four steps down, four up, a skip connection at each height. (B, C, H, W) of any size -> logits (B, K, H, W).

    Differs from the paper as the widely used PyTorch version does: padded convolutions, batch norm, no dropout. Parameter
    names are those of that version. 31,037,698 parameters at 3 channels and 2 classes.

    Args:
        in_channels: C.
        num_classes: K.
        bilinear: bilinear up-sampling instead of transposed convolutions, with half the channels at the bottom.
        base_channels: width of the first level; it doubles at each step down.
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 2, bilinear: bool = False, base_channels: int = 64
    ) -> None:
        super().__init__()
        for name, value in {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "base_channels": base_channels,
        }.items():
            if value < 1:
                raise UsageError(f"model.{name} is {value}; it must be at least 1")
        if bilinear and base_channels % 2:
            raise UsageError(f"model.base_channels is {base_channels}; with bilinear up-sampling it must be even")
        c, half = base_channels, 2 if bilinear else 1
        self.inc = DoubleConv(in_channels, c)
        self.down1, self.down2 = Down(c, 2 * c), Down(2 * c, 4 * c)
        self.down3, self.down4 = Down(4 * c, 8 * c), Down(8 * c, 16 * c // half)
        self.up1, self.up2 = Up(16 * c, 8 * c // half, bilinear), Up(8 * c, 4 * c // half, bilinear)
        self.up3, self.up4 = Up(4 * c, 2 * c // half, bilinear), Up(2 * c, c, bilinear)
        self.outc = OutConv(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        x = self.up1(x5, x4)
        x = self.up2(x, x3)
        x = self.up3(x, x2)
        x = self.up4(x, x1)
        return self.outc(x)


class UNet(SemanticSegmentation):
    """U-Net: a contracting path for context, an expanding one for place, skip connections between (Ronneberger 2015).

    Args:
        in_channels: channels of the images.
        num_classes: classes, background included; None: from the data on the command line, 2 in Python.
        bilinear: bilinear up-sampling instead of transposed convolutions.
        base_channels: width of the first level; 64 is the paper's, 16 learns the embedded world on a CPU.
        pretrained: file with weights of this network (a state dict as the widely used PyTorch version publishes, or a
            checkpoint of ours) to start from.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int | None = None,
        bilinear: bool = False,
        base_channels: int = 64,
        pretrained: str | None = None,
        **kwargs: Any,
    ) -> None:
        num_classes = 2 if num_classes is None else num_classes
        super().__init__(UNetNetwork(in_channels, num_classes, bilinear, base_channels), num_classes, **kwargs)
        self.hparams.pop("pretrained", None)  # a checkpoint of ours stands alone
        if pretrained is not None:
            load_weights(self.network, Path(pretrained))


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a state dict, plain or from a Lightning checkpoint of ours, and says which keys differ if it does not fit."""
    if not path.is_file():
        raise UsageError(f"model.pretrained: {path} does not exist; give a file with the network's state dict")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UsageError(f"model.pretrained: {path} cannot be loaded safely as weights ({error})") from error
    if "state_dict" in state:
        state = {k.removeprefix("network."): v for k, v in state["state_dict"].items() if k.startswith("network.")}
    state.pop("mask_values", None)  # the published checkpoints carry the grey values of their masks
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"model.pretrained: {path} does not fit this network. {error}") from error
