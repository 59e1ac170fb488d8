"""U-Net (Ronneberger, Fischer, Brox 2015): padded, with batch norm, as in the lecture; or as in the paper."""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.compiler import is_exporting
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.contracting_path import ContractingPath, DoubleConv, Padding
from darkroom.lightning_modules.layers.symbolic_sides import as_one_symbol, ceil_div
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from darkroom.lightning_modules.segmentation.upsampling import crop, unpool

Upsampling = Literal["transposed", "bilinear", "nearest", "unpooling"]


class Up(nn.Module):
    """Step of the expanding path: double the map, concatenate the skip connection, then DoubleConv."""

    def __init__(
        self, in_channels: int, out_channels: int, upsampling: Upsampling, padding: Padding, batch_norm: bool
    ) -> None:
        super().__init__()
        self.unpools, self.crops = upsampling == "unpooling", padding == "valid"
        mid_channels = in_channels // 2
        if upsampling == "transposed":
            self.up: nn.Module = nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2)
            mid_channels = out_channels
        elif upsampling == "bilinear":
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        elif upsampling == "nearest":
            self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.conv = DoubleConv(in_channels, out_channels, mid_channels, padding=padding, batch_norm=batch_norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        if self.crops:  # the centre of the skip connection, which valid convolutions left
            top, left = ((big - 2 * small) // 2 for big, small in zip(skip.shape[-2:], x.shape[-2:], strict=True))
            skip = crop(skip, (top, left), (2 * x.shape[-2], 2 * x.shape[-1]))
        x = _unpool_like(x, skip) if self.unpools else self.up(x)
        # Halving rounds down: pad to the skip's size, or crop after a side of one pixel.
        right, bottom = skip.shape[-1] - x.shape[-1], skip.shape[-2] - x.shape[-2]
        if is_exporting() or right or bottom:
            top, left = (bottom + 2) // 2 - 1, (right + 2) // 2 - 1  # of -1 too, where ONNX rounds to zero
            x = F.pad(x, (left, right - left, top, bottom - top))
        return self.conv(torch.cat([skip, x], dim=1))


def _unpool_like(x: Tensor, skip: Tensor) -> Tensor:
    """Unpool a map to the positions of the maxima of the skip connection, zero elsewhere."""
    indices = F.max_pool2d(skip, 2, ceil_mode=True, return_indices=True)[1]
    return unpool(x, indices[..., : x.shape[-2], : x.shape[-1]], skip.shape[-2:])


class OutConv(nn.Module):
    """1x1 convolution to logits."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UNetNetwork(ContractingPath):
    """U-Net with four steps down and up and a skip connection at each level.

    By default (B, C, H, W) of any size -> logits (B, K, H, W), as the widely used PyTorch version, with its parameter
    names; 31,037,698 parameters at 3 channels and 2 classes. With ``padding="valid", batch_norm=False,
    dropout=0.5`` the paper's: an image of 572 pixels gives logits for the central 388, 16 n + 124 give 16 n - 60;
    31,030,658 parameters at 1 channel and 2 classes.

    Args:
        in_channels: C.
        num_classes: K.
        bilinear: the same as upsampling bilinear, the name in the widely used version.
        base_channels: width of the first level; it doubles at each step down.
        upsampling: "transposed" 2x2 convolutions; "bilinear", "nearest" or "unpooling" to the positions of the maxima, with
            half the channels at the bottom.
        padding: "same" keeps the size; "valid" convolutions lose their border, and skip connections are cropped.
        batch_norm: after every 3x3 convolution; without, they have biases.
        dropout: at the end of the contracting path.

    Raises:
        UsageError: the size does not fit valid padding; states sizes that do.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        bilinear: bool = False,
        base_channels: int = 64,
        upsampling: Upsampling = "transposed",
        padding: Padding = "same",
        batch_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        if bilinear and upsampling not in ("transposed", "bilinear"):
            raise UsageError(f"model.bilinear contradicts model.upsampling {upsampling}; set one of them")
        upsampling = "bilinear" if bilinear else upsampling
        widths = {"in_channels": in_channels, "num_classes": num_classes, "base_channels": base_channels}
        for name, value in widths.items():
            if value < 1:
                raise UsageError(f"model.{name} must be at least 1, got {value}")
        if upsampling != "transposed" and base_channels % 2:
            raise UsageError(f"model.base_channels must be even with {upsampling} upsampling, got {base_channels}")
        c, half = base_channels, 1 if upsampling == "transposed" else 2
        super().__init__(in_channels, c, 16 * c // half, padding=padding, batch_norm=batch_norm)
        self.margin = 92 if padding == "valid" else 0  # pixels of the image that each side loses
        self.seamless = padding == "valid"
        up = partial(Up, upsampling=upsampling, padding=padding, batch_norm=batch_norm)
        self.dropout = nn.Dropout(dropout)
        self.up1, self.up2 = up(16 * c, 8 * c // half), up(8 * c, 4 * c // half)
        self.up3, self.up4 = up(4 * c, 2 * c // half), up(2 * c, c)
        self.outc = OutConv(c, num_classes)

    def input_size(self, size: int) -> int:
        """Return the smallest side that gives logits for at least ``size`` pixels with valid padding."""
        return 16 * as_one_symbol(ceil_div(size + 60, 16), least=4) + 124

    def _check(self, height: int, width: int) -> None:
        for side in (height, width) if self.margin and not is_exporting() else ():
            if side < 188 or (side - 124) % 16:
                fitting = sorted({self.input_size(max(4, side - lost)) for lost in (199, 184)} | {572})
                raise UsageError(
                    f"an image of {height} x {width} pixels does not fit U-Net's valid convolutions: sides must be 16 n "
                    f"+ 124, at least 188, such as {', '.join(map(str, fitting))}"
                )

    def forward(self, x: Tensor) -> Tensor:
        self._check(*x.shape[-2:])
        *skips, x = self.maps(x)
        x = self.dropout(x)
        for up, skip in zip((self.up1, self.up2, self.up3, self.up4), reversed(skips), strict=True):
            x = up(x, skip)
        return self.outc(x)


class UNet(SemanticSegmentation):
    """U-Net: a contracting and an expanding path with skip connections (Ronneberger et al. 2015).

    With valid padding every image is mirrored at its border so that all its pixels get logits. ``inference.tile`` cuts
    large images into tiles with their true surroundings: the paper's overlap-tile strategy.

    Args:
        in_channels: channels of the images; None: from the data on the command line, 3 in Python.
        num_classes: classes, background included; None: from the data on the command line, 2 in Python.
        bilinear: the same as upsampling bilinear, the name in the widely used version.
        base_channels: width of the first level; 64 is the paper's, 16 suffices for Shapes on a CPU.
        upsampling: transposed (the paper's), bilinear, nearest or unpooling.
        padding: same, or valid as in the paper.
        batch_norm: after every 3x3 convolution; the paper has none.
        dropout: at the end of the contracting path; the paper has it.
        training_border: with valid padding, the pixels that training images lose at their border: "mirrored" pixels, added
            first, or the image's own ("given"): of 572 pixels the central 388 are trained on, as in the paper.
        others: see SemanticSegmentation; ``init_from`` also takes a state dict that the widely used PyTorch
            version publishes.
    """

    network: UNetNetwork

    def __init__(
        self,
        in_channels: int | None = None,
        num_classes: int | None = None,
        bilinear: bool = False,
        base_channels: int = 64,
        upsampling: Upsampling = "transposed",
        padding: Padding = "same",
        batch_norm: bool = True,
        dropout: float = 0.0,
        training_border: Literal["mirrored", "given"] = "mirrored",
        **kwargs: Any,
    ) -> None:
        num_classes = 2 if num_classes is None else num_classes
        in_channels = 3 if in_channels is None else in_channels
        network = UNetNetwork(
            in_channels=in_channels,
            num_classes=num_classes,
            bilinear=bilinear,
            base_channels=base_channels,
            upsampling=upsampling,
            padding=padding,
            batch_norm=batch_norm,
            dropout=dropout,
        )
        super().__init__(network, num_classes=num_classes, **kwargs)
        self.training_border = training_border

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        margin = self.network.margin
        if not margin or self.training_border == "mirrored":
            return super().training_step(batch, batch_idx)
        height, width = (side - 2 * margin for side in batch["image"].shape[-2:])
        logits = self.logits_within(batch["image"], (height, width))
        within = (..., slice(margin, margin + height), slice(margin, margin + width))
        maps = {
            name: value[within] if name != "image" and _is_map(value, batch) else value for name, value in batch.items()
        }
        return self.log_loss(self.loss_terms(logits, maps))


def _is_map(value: Any, batch: dict[str, Any]) -> bool:
    return isinstance(value, Tensor) and value.shape[-2:] == batch["image"].shape[-2:]
