"""EfficientUNet: the U-Net of Imagen's super-resolution (Saharia et al. 2022, appendix B), quick on large pictures."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.blocks import (
    Block,
    Downsample,
    Modulation,
    TimedUNet,
    Upsample,
    beside,
    draw_weights,
    group_norm,
    known_shape,
)
from darkroom.lightning_modules.diffusion.time_embedding import Sinusoidal
from darkroom.lightning_modules.utils.arguments import check_choice

SKIP_SCALE = 2**-0.5  # appendix B


class EfficientUNet(TimedUNet):
    """The U-Net that says what is noise in a large picture, given a small one: x_t (B, C, H, W), t (B,), the small picture
    made large and its noise's time -> (B, C, H, W), in the network's dtype.

    Work is moved to where it costs least. A level halves the map *before* its blocks and doubles it *after* them, so that
    no block works at full size; the small maps have most blocks, and the smallest alone has attention. A level hands one
    map over to the way up, scaled by 1 / sqrt 2. So is the first map of all, of full size, which is added to the last: the
    noise of single pixels would else have to pass through maps of half the size.

    The defaults are Imagen's for 64 -> 256, which the paper counts as 600 M parameters: 637 M here with text_dim 4096, T5
    XXL's. Its 256 -> 1024, counted as 400 M, has self_attention false: 603 M here, and 457 M with attentions 1; the paper
    leaves open how many blocks look at the text.

    Fully convolutional: pictures of any size that can be halved as often may be given, such as crops to learn from.

    Args:
        image_shape: (C, H, W); the command line takes it, and the two below that are None, too, from the model.
        text_dim: D: with it, the network is told a text, as tokens of D numbers: their mean is added to the embedding of
            the times, and every attention looks at them.
        channels: of each level's maps, the largest one first; the first even, from 4 up.
        blocks: of each level, on the way down and again on the way up.
        halve_first: also the first level halves the map. False: its blocks see single pixels, as small pictures need.
        self_attention: the coarsest map's pixels look at each other. False: at the text alone, if there is one.
        attentions: how many of the coarsest level's blocks on either way, the last ones, have attention: at least 1;
            None: all.
        head_channels: of each attention head; None: one head of all channels.
        modulation: how blocks are told the time: add or adaptive; see Block.
        residual: what the layers say is added to the small picture, so that a new network, whose answer is 0, up-samples as
            the small picture was: for models that predict x0. Not the paper's.
        dropout: in blocks, in [0, 1).
        learned_variance: 2 C channels come out: the second half says the variance.
        self_conditioning: the x0 last predicted comes in beside x_t.
        gradient_checkpointing: keep the ends of blocks alone, and compute the rest again in the backward pass: the same
            gradients, less memory, a third more time.

    Attributes:
        step: what the sides of pictures are multiples of.

    Raises:
        UsageError: pictures that cannot be halved so often, options out of range.
    """

    told: ClassVar[tuple[str, ...]] = ("image_shape", "learned_variance", "self_conditioning")

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        text_dim: int | None = None,
        channels: Sequence[int] = (128, 256, 512, 1024),
        blocks: Sequence[int] = (2, 4, 8, 8),
        halve_first: bool = True,
        self_attention: bool = True,
        attentions: int | None = None,
        head_channels: int | None = 64,
        modulation: Modulation = "adaptive",
        residual: bool = False,
        dropout: float = 0.0,
        learned_variance: bool | None = None,
        self_conditioning: bool | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(text_dim, gradient_checkpointing)
        self.image_shape = known_shape(image_shape)
        _check(channels, blocks, attentions, head_channels, dropout)
        check_choice("model.network.modulation", modulation, Modulation)
        self.step = 2 ** (len(channels) - (not halve_first))
        _check_size(self.image_shape[1:], self.step)
        self.learned_variance, self.self_conditioning = bool(learned_variance), bool(self_conditioning)
        self.residual = residual

        block = partial(Block, head_channels=head_channels, modulation=modulation, dropout=dropout)
        block = partial(block, text=text_dim is not None, to_pixels=self_attention)
        colours, narrow, wide = self.image_shape[0], channels[0], 4 * channels[0]
        self.stem = nn.Conv2d(colours * (3 if self.self_conditioning else 2), narrow, 3, padding=1)
        looking = (attentions or blocks[-1]) if self_attention or text_dim is not None else 0
        self.down, self.up = _levels(channels, blocks, halve_first, looking, block)
        outputs = colours * (2 if self.learned_variance else 1)
        self.head = nn.Sequential(group_norm(narrow), nn.SiLU(), nn.Conv2d(narrow, outputs, 3, padding=1))

        self.waves = Sinusoidal(narrow)
        self.embed, self.embed_low = (
            nn.Sequential(nn.Linear(narrow, wide), nn.SiLU(), nn.Linear(wide, wide)) for _ in range(2)
        )
        layers = [layer for level in (*self.down, *self.up) for layer in level]
        self._build_telling(wide, layers)
        draw_weights(self)

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
        """What the network says of noisy pictures.

        Args:
            x: (B, C, H, W), the noisy pictures; H and W multiples of ``step``.
            t: (B,), int64 or float: their times, in steps of the schedule.
            low: (B, C, H, W), the small pictures, made as large as x, with noise of their own.
            low_t: (B,), int64 or float: the times of that noise.
            text: (B, L, D), embeddings of tokens; None: no text for all.
            text_mask: bool (B, L): where there is a token; a row without any has no text. None: everywhere.
            x0: (B, C, H, W), the pictures last predicted, for self-conditioning; None: none yet, zeros.

        Returns:
            (B, C, H, W), or (B, 2 C, H, W) with learned variance.

        Raises:
            UsageError: a text or x0 for a network that was built without, pictures that cannot be halved so often.
        """
        if x0 is not None and not self.self_conditioning:
            raise UsageError("this EfficientUNet was given an earlier x0; set self_conditioning")
        _check_size(x.shape[2:], self.step)
        told = self._told(self._embedding(t, low_t), text, text_mask)
        x = beside(x, x0) if self.self_conditioning else x
        x = whole = self.stem(torch.cat([x, low], 1).to(self.stem.weight.dtype))
        skips = []
        for level in self.down:
            for layer in level:
                x = self._run(layer, x, *next(told))
            skips.append(x * SKIP_SCALE)
        skips.pop()  # the way up begins with the last map itself
        for level in self.up:
            for layer in level:
                x = self._run(layer, x, *next(told), skips.pop() if layer.skip_channels else None)
        said = self.head(x + whole * SKIP_SCALE)
        return torch.cat([said[:, : low.shape[1]] + low, said[:, low.shape[1] :]], 1) if self.residual else said

    def _embedding(self, t: Tensor, low_t: Tensor) -> Tensor:
        """Of both times, (B, 4 channels[0])."""
        waves, waves_low = (self.waves(time).to(self.stem.weight.dtype) for time in (t, low_t))
        return self.embed(waves) + self.embed_low(waves_low)


def _levels(
    channels: Sequence[int], blocks: Sequence[int], halve_first: bool, looking: int, block: Callable[..., nn.Module]
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The levels of the way down, finest first, and of the way up, coarsest first, each a list of layers."""
    down, up = nn.ModuleList(), nn.ModuleList()
    for level, (width, n) in enumerate(zip(channels, blocks, strict=True)):
        above, halved, coarsest = channels[max(0, level - 1)], level > 0 or halve_first, level == len(channels) - 1
        looks = [coarsest and i >= n - looking for i in range(n)]
        skips = [width if i == 0 and not coarsest else 0 for i in range(n)]
        halve, double = ([Downsample(above, width)], [Upsample(width, above)]) if halved else ([], [])
        down.append(nn.ModuleList(halve + [block(width, width, attention=look) for look in looks]))
        ups = [block(width, width, skip, look) for skip, look in zip(skips, looks, strict=True)]
        up.insert(0, nn.ModuleList(ups + double))
    return down, up


# --- what can be wrong ------------------------------------------------------------------------------------------------


def _check(
    channels: Sequence[int], blocks: Sequence[int], attentions: int | None, head_channels: int | None, dropout: float
) -> None:
    levels = len(channels)
    wrong = {
        "channels": (
            tuple(channels),
            min(channels, default=0) < 4 or channels[0] % 2,
            "a number from 4 up for each level, the first one even",
        ),
        "blocks": (
            tuple(blocks),
            len(blocks) != levels or min(blocks, default=0) < 1,
            f"a number from 1 up for each of the {levels} levels of model.network.channels",
        ),
        "attentions": (attentions, attentions is not None and attentions < 1, "at least 1, or null"),
        "head_channels": (head_channels, head_channels is not None and head_channels < 1, "at least 1, or null"),
        "dropout": (dropout, not 0 <= dropout < 1, "in [0, 1)"),
    }
    for name, (value, bad, right) in wrong.items():
        if bad:
            raise UsageError(f"model.network.{name} is {value}; it is {right}")


def _check_size(size: Sequence[int], step: int) -> None:
    if any(side % step for side in size):
        lower, upper = [max(step, side - side % step) for side in size], [side + -side % step for side in size]
        raise UsageError(
            f"EfficientUNet was given pictures of {size[0]} x {size[1]}, but model.network.channels and halve_first ask "
            f"for sides that are multiples of {step}, such as {lower[0]} x {lower[1]} or {upper[0]} x {upper[1]}"
        )
