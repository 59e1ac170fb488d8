"""EfficientUNet: the U-Net of Imagen's super-resolution (Saharia et al. 2022, appendix B.1), fast on large images."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.blocks import (
    Block,
    Downsample,
    Layer,
    Modulation,
    TimedUNet,
    Upsample,
    check_network_shape,
    concat_x0,
    group_norm,
    init_weights,
    layers_of,
)
from darkroom.lightning_modules.diffusion.time_embedding import Sinusoidal
from darkroom.lightning_modules.utils.arguments import check_choice

SKIP_SCALE = 2**-0.5  # appendix B.1


class EfficientUNet(TimedUNet):
    """U-Net for super-resolution: x_t (B, C, H, W), t (B,), the upsampled image and its noise level -> (B, C, H, W), in the
    network's dtype.

    A level halves the map *before* its blocks and doubles it *after* them, so that no block works at full size. The small
    maps have most of the blocks, and only the smallest has attention. Each level has one skip connection, scaled by
    1 / sqrt 2. The first map, of full size, is added to the last with the same scale, so that the noise of single pixels
    does not have to pass through smaller maps.

    The defaults are Imagen's for 64 -> 256, which the paper counts as 600 M parameters: 637 M here with text_dim 4096, as
    T5 XXL. Its 256 -> 1024, counted as 400 M, has self_attention false: 603 M here, and 457 M with attentions 1. The paper
    does not state how many blocks attend to the text.

    The network is fully convolutional: it takes images of any size that can be halved as often, such as training crops.

    Args:
        image_shape: (C, H, W). The command line takes it from the model, as well as learned_variance and self_conditioning.
        text_dim: D; the network takes tokens of a text. Their mean is added to the time embedding, and every attention
            attends to them.
        channels: of each level, the finest first; the first even, at least 4.
        blocks: of each level, in encoder and decoder.
        halve_first: the first level halves the map, too. False: its blocks work at full size, as small images need.
        self_attention: pixels of the coarsest level attend to each other. False: to the text only, if there is one.
        attentions: number of blocks of the coarsest level that have attention, the last ones, at least 1; None: all.
        head_channels: of each attention head; None: one head of all channels.
        modulation: how the time enters a block: add or adaptive; see Block.
        residual: add the upsampled image to the output, so that a new network, whose output is 0, returns the upsampled
            image. For models that predict x0. Not in the paper.
        dropout: in blocks, in [0, 1).
        learned_variance: return 2 C channels; the second half is the variance.
        self_conditioning: take the last predicted x0 as additional input.
        gradient_checkpointing: store only the inputs of layers and compute the rest again in the backward pass: the same
            gradients, less memory, a third more time.

    Attributes:
        step: sides of images must be multiples of this.
        built_for: arguments that must agree with the model's.

    Raises:
        UsageError: an image size that cannot be halved so often, or an option out of its range.
    """

    linked_arguments: ClassVar[tuple[str, ...]] = ("image_shape", "learned_variance", "self_conditioning")

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        text_dim: int | None = None,
        channels: Sequence[int] = (128, 256, 512, 1024),
        blocks: Sequence[int] = (2, 4, 8, 8),
        halve_first: bool = True,
        self_attention: bool = True,
        attentions: int | None = None,
        head_channels: int | None = 128,
        modulation: Modulation = "adaptive",
        residual: bool = False,
        dropout: float = 0.0,
        learned_variance: bool | None = None,
        self_conditioning: bool | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(text_dim=text_dim, gradient_checkpointing=gradient_checkpointing)
        self.image_shape = check_network_shape(image_shape)
        _check(channels, blocks, attentions, head_channels, dropout)
        check_choice("model.network.modulation", modulation, Modulation)
        self.step = 2 ** (len(channels) - (not halve_first))
        _check_size(self.image_shape[1:], self.step)
        self.learned_variance, self.self_conditioning = bool(learned_variance), bool(self_conditioning)
        self.built_for = {
            "image_shape": self.image_shape,
            "learned_variance": self.learned_variance,
            "self_conditioning": self.self_conditioning,
        }
        self.residual = residual

        block = partial(
            Block,
            head_channels=head_channels,
            modulation=modulation,
            dropout=dropout,
            text=text_dim is not None,
            to_pixels=self_attention,
        )
        colours, narrow, wide = self.image_shape[0], channels[0], 4 * channels[0]
        self.stem = nn.Conv2d(colours * (3 if self.self_conditioning else 2), narrow, 3, padding=1)
        attending = (attentions or blocks[-1]) if self_attention or text_dim is not None else 0
        self.down, self.up = _levels(channels, blocks, halve_first, attending, block)
        outputs = colours * (2 if self.learned_variance else 1)
        self.head = nn.Sequential(group_norm(narrow), nn.SiLU(), nn.Conv2d(narrow, outputs, 3, padding=1))

        self.waves = Sinusoidal(narrow)
        self.embed, self.embed_low = (
            nn.Sequential(nn.Linear(narrow, wide), nn.SiLU(), nn.Linear(wide, wide)) for _ in range(2)
        )
        self._build_conditioning(wide, layers_of(*_levels_of(self.down), *_levels_of(self.up)))
        init_weights(self)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        low: Tensor,
        low_t: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        x0: Tensor | None = None,
    ) -> Tensor:
        """Predict noise, image or v of noisy images.

        Args:
            x: noisy images (B, C, H, W); H and W must be multiples of ``step``.
            t: times (B,), int64 or float, in steps of the schedule.
            low: small images, upsampled and noised, (B, C, H, W).
            low_t: times (B,) of that noise, int64 or float.
            text: token embeddings (B, L, D); None: no text.
            text_mask: bool (B, L), True where there is a token; None: everywhere.
            x0: last predicted images (B, C, H, W), for self-conditioning; None: zeros.

        Returns:
            (B, C, H, W), or (B, 2 C, H, W) with learned variance.

        Raises:
            UsageError: a text or x0 that the network was not built for, or images that cannot be halved so often.
        """
        if x0 is not None and not self.self_conditioning:
            raise UsageError("this EfficientUNet takes no x0, but got one; set self_conditioning")
        _check_size(x.shape[2:], self.step)
        conditions = self._layer_conditions(self._embedding(t, low_t), text, text_mask)
        x = concat_x0(x, x0) if self.self_conditioning else x
        x = whole = self.stem(torch.cat([x, low], 1).to(self.stem.weight.dtype))
        skips = []
        for level in _levels_of(self.down):
            for layer in layers_of(level):
                x = self._run(layer, x, *next(conditions))
            skips.append(x * SKIP_SCALE)
        skips.pop()  # the decoder starts with the last map itself
        for level in _levels_of(self.up):
            for layer in layers_of(level):
                x = self._run(layer, x, *next(conditions), skips.pop() if layer.skip_channels else None)
        output = self.head(x + whole * SKIP_SCALE)
        return torch.cat([output[:, : low.shape[1]] + low, output[:, low.shape[1] :]], 1) if self.residual else output

    def _embedding(self, t: Tensor, low_t: Tensor) -> Tensor:
        """Embed both times: (B, 4 channels[0])."""
        waves, waves_low = (self.waves(time).to(self.stem.weight.dtype) for time in (t, low_t))
        return self.embed(waves) + self.embed_low(waves_low)


def _levels(
    channels: Sequence[int], blocks: Sequence[int], halve_first: bool, attending: int, block: Callable[..., Layer]
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Build the levels of the encoder, finest first, and of the decoder, coarsest first, each a list of layers."""
    down, up = nn.ModuleList(), nn.ModuleList()
    for level, (width, n) in enumerate(zip(channels, blocks, strict=True)):
        above, halved, coarsest = channels[max(0, level - 1)], level > 0 or halve_first, level == len(channels) - 1
        attends = [coarsest and i >= n - attending for i in range(n)]
        skips = [width if i == 0 and not coarsest else 0 for i in range(n)]
        halve: list[Layer] = [Downsample(above, width)] if halved else []
        double: list[Layer] = [Upsample(width, above)] if halved else []
        down.append(nn.ModuleList(halve + [block(width, width, attention=attend) for attend in attends]))
        ups = [block(width, width, skip, attend) for skip, attend in zip(skips, attends, strict=True)]
        up.insert(0, nn.ModuleList(ups + double))
    return down, up


def _levels_of(levels: nn.ModuleList) -> list[nn.ModuleList]:
    return [level for level in levels if isinstance(level, nn.ModuleList)]


# --- checks -----------------------------------------------------------------------------------------------------------


def _check(
    channels: Sequence[int], blocks: Sequence[int], attentions: int | None, head_channels: int | None, dropout: float
) -> None:
    levels = len(channels)
    wrong = {
        "channels": (
            tuple(channels),
            min(channels, default=0) < 4 or channels[0] % 2,
            "at least 4 for each level, the first one even",
        ),
        "blocks": (
            tuple(blocks),
            len(blocks) != levels or min(blocks, default=0) < 1,
            f"at least 1 for each of the {levels} levels of model.network.channels",
        ),
        "attentions": (attentions, attentions is not None and attentions < 1, "at least 1, or null"),
        "head_channels": (head_channels, head_channels is not None and head_channels < 1, "at least 1, or null"),
        "dropout": (dropout, not 0 <= dropout < 1, "in [0, 1)"),
    }
    for name, (value, bad, right) in wrong.items():
        if bad:
            raise UsageError(f"model.network.{name} must be {right}, got {value}")


def _check_size(size: Sequence[int], step: int) -> None:
    if any(side % step for side in size):
        lower, upper = [max(step, side - side % step) for side in size], [side + -side % step for side in size]
        raise UsageError(
            f"images of {size[0]} x {size[1]} do not fit EfficientUNet; with these model.network.channels and halve_first, "
            f"sides must be multiples of {step}, such as {lower[0]} x {lower[1]} or {upper[0]} x {upper[1]}"
        )
