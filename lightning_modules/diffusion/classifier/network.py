"""EncoderClassifier: encoder of the U-Net with attention pooling, a classifier of noisy images."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.blocks import (
    Block,
    Downsample,
    FusedLinear,
    Modulation,
    TimedUNet,
    attend,
    check_network_shape,
    group_norm,
    init_weights,
    layers_of,
)
from darkroom.lightning_modules.diffusion.time_embedding import Sinusoidal
from darkroom.lightning_modules.diffusion.unet import (
    BuildLayer,
    Resampling,
    build_encoder,
    check_numbers,
    plan_levels,
)
from darkroom.lightning_modules.utils.arguments import check_choice


class AttentionPool(nn.Module):
    """Attention of the mean of a map to the mean and all pixels, as in CLIP (Radford et al. 2021, section 2.3).

    (B, C, h, w) -> (B, outputs).

    Args:
        channels: C.
        size: h and w.
        outputs: numbers per image.
        head_channels: of each head; None: one head of all.
    """

    def __init__(self, channels: int, size: tuple[int, int], outputs: int, head_channels: int | None = None) -> None:
        super().__init__()
        self.size, self.head_channels = size, head_channels or channels
        if channels % self.head_channels:
            raise UsageError(
                f"model.network.head_channels must divide the channels of the last level, got {head_channels} for "
                f"{channels} channels"
            )
        self.positions = nn.Parameter(torch.randn(1 + size[0] * size[1], channels) / channels**0.5)
        self.query_key_value = FusedLinear(channels, 3 * [channels])
        self.out = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2).mT
        tokens = torch.cat([pixels.mean(1, keepdim=True), pixels], 1) + self.positions
        parts = self.query_key_value(tokens)
        query, key, value = (part.unflatten(2, (-1, self.head_channels)).transpose(1, 2) for part in parts)
        pooled = attend(query[:, :, :1], key, value)
        return self.out(pooled.transpose(1, 2).flatten(1))


class EncoderClassifier(TimedUNet):
    """Encoder of ``DenoisingUNet`` with attention pooling: x_t (B, C, H, W), t (B,) -> logits (B, K) (Dhariwal & Nichol
    2021, section 4).

    Args:
        image_shape, num_classes: (C, H, W) and K; the command line takes them from the model.
        base_channels, multipliers, blocks, attention, head_channels, modulation, resampling, dropout: see
            ``DenoisingUNet``.
        gradient_checkpointing: see ``DenoisingUNet``.

    Raises:
        UsageError: an image size that cannot be halved so often, attention at a side that no map has, or an option out of
            its range.
    """

    linked_arguments: ClassVar[tuple[str, ...]] = ("image_shape", "num_classes")

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        base_channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] | int = (16,),
        head_channels: int | None = None,
        modulation: Modulation = "adaptive",
        resampling: Resampling = "conv",
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(text_dim=None, gradient_checkpointing=gradient_checkpointing)
        check_numbers(base_channels, multipliers, blocks, head_channels, dropout)
        image_shape = check_network_shape(image_shape)
        if num_classes is None or num_classes < 2:
            raise UsageError(f"model.network.num_classes must be at least 2, got {num_classes}")
        levels = plan_levels(image_shape, base_channels, multipliers, attention)
        check_choice("model.network.modulation", modulation, Modulation)
        block: BuildLayer = partial(Block, head_channels=head_channels, modulation=modulation, dropout=dropout)
        half: BuildLayer = Downsample
        if check_choice("model.network.resampling", resampling, Resampling) == "residual":
            half = partial(block, resample=nn.AvgPool2d(2))
        self.image_shape, self.num_classes = image_shape, num_classes
        self.stem = nn.Conv2d(image_shape[0], base_channels, 3, padding=1)
        self.down, channels = build_encoder(levels, base_channels, blocks, block, half)
        last, step = channels[-1], 2 ** (len(multipliers) - 1)
        self.middle = nn.ModuleList([block(last, last, attention=True), block(last, last)])
        smallest = image_shape[1] // step, image_shape[2] // step
        self.head = nn.Sequential(
            group_norm(last), nn.SiLU(), AttentionPool(last, smallest, num_classes, head_channels)
        )
        self.waves, wide = Sinusoidal(base_channels), 4 * base_channels
        self.embed = nn.Sequential(nn.Linear(base_channels, wide), nn.SiLU(), nn.Linear(wide, wide))
        self._build_conditioning(wide, layers_of(self.down, self.middle))
        init_weights(self)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return logits (B, K) of noisy images.

        Args:
            x: noisy images (B, C, H, W).
            t: times (B,), int64 or float, in steps of the schedule.

        Raises:
            UsageError: the images have another shape than the network was built for.
        """
        if x.shape[1:] != self.image_shape:
            raise UsageError(
                f"images must have the shape (B, {', '.join(map(str, self.image_shape))}), for which this "
                f"EncoderClassifier was built, got {tuple(x.shape)}"
            )
        dtype = self.stem.weight.dtype
        conditions = self._layer_conditions(self.embed(self.waves(t).to(dtype)), None, None)
        x = self.stem(x.to(dtype))
        for layer in layers_of(self.down, self.middle):
            x = self._run(layer, x, *next(conditions))
        return self.head(x)
