"""Denoiser: the U-Net of diffusion models (Ho et al. 2020, appendix B), and what Dhariwal & Nichol (2021) made of it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

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
from darkroom.lightning_modules.diffusion.time_embedding import RandomFourier, Sinusoidal
from darkroom.lightning_modules.utils.arguments import check_choice

TimeEmbedding = Literal["sinusoidal", "fourier"]
Resampling = Literal["conv", "residual"]


class Denoiser(TimedUNet):
    """The U-Net that says what is noise in a picture: x_t (B, C, H, W), t (B,) -> (B, C, H, W), in the network's dtype.

    The defaults are the CIFAR-10 network of Ho et al. (2020), 35,746,307 parameters for (3, 32, 32), in all but names the
    authors': residual blocks with group norm and swish, one more per map on the way up, where each takes a map from the way
    down beside its own; attention at 16x16 and in the middle; weights Glorot-uniform, but zero in the last layer of every
    block, of every attention, and of the network, which so begins as the answer 0. The networks of Nichol & Dhariwal (2021)
    and Dhariwal & Nichol (2021, "ADM") by options: CIFAR-10 52.5 M with blocks 3, attention (16, 8), head_channels 64,
    modulation adaptive, learned_variance; ImageNet 64 (296 M) base_channels 192, multipliers (1, 2, 3, 4), blocks 3,
    attention (32, 16, 8), head_channels 64, modulation adaptive, resampling residual, learned_variance. Imagen's 64x64
    (Saharia et al. 2022; counted as 2 B there) is the last one with base_channels 512, text_dim 4096 and no learned
    variance: 2,391 M, and 2,176 M with modulation add and resampling conv.

    Pictures of other sizes than ``image_shape``'s that can be halved as often may be given, too.

    Args:
        image_shape: (C, H, W); the command line takes it, and the next three that are None here, from the model.
        num_classes: K: with it, an embedding of the class is added to that of the time. It has a row more, for no class.
        base_channels: of the first map; even, from 4 up.
        multipliers: of base_channels, for the maps, each half the side of the one before.
        blocks: residual blocks for each map on the way down; one more on the way up.
        attention: the sides of maps, the larger one, that have attention after every block; or one number: every map up to
            this side. The middle always has.
        head_channels: of each attention head; None: one head of all channels.
        time_embedding: sinusoidal, or fourier: random frequencies.
        modulation: how blocks are told the time: add or adaptive; see Block.
        resampling: conv, or residual: blocks that average 2x2 pixels, or repeat them, in their branches.
        dropout: in blocks, in [0, 1).
        learned_variance: 2 C channels come out: the second half says the variance.
        self_conditioning: the x0 last predicted comes in beside x_t.
        gradient_checkpointing: keep the ends of blocks alone, and compute the rest again in the backward pass: the same
            gradients, less memory, a third more time.
        text_dim: D: with it, the network is told a text, as tokens of D numbers: their mean is added to the embedding of
            the time, and every attention looks at them as at pixels.

    Attributes:
        null_label: K, the label that stands for no class; None without classes.

    Raises:
        UsageError: pictures that cannot be halved so often, attention at a side that no map has, options out of range.
    """

    told: ClassVar[tuple[str, ...]] = ("image_shape", "num_classes", "learned_variance", "self_conditioning")

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        base_channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] | int = (16,),
        head_channels: int | None = None,
        time_embedding: TimeEmbedding = "sinusoidal",
        modulation: Modulation = "add",
        resampling: Resampling = "conv",
        dropout: float = 0.1,
        learned_variance: bool | None = None,
        self_conditioning: bool | None = None,
        gradient_checkpointing: bool = False,
        text_dim: int | None = None,
    ) -> None:
        super().__init__(text_dim, gradient_checkpointing)
        _check_numbers(base_channels, multipliers, blocks, head_channels, dropout)
        image_shape = known_shape(image_shape)
        sides = _sides(image_shape[1:], len(multipliers))
        if isinstance(attention, int):
            attention = [side for side in sides if side <= attention]
        _check_attention(attention, sides)
        check_choice("model.network.modulation", modulation, Modulation)
        self.image_shape, self.num_classes, self.null_label = image_shape, num_classes, num_classes
        self.learned_variance, self.self_conditioning = bool(learned_variance), bool(self_conditioning)

        options = {"head_channels": head_channels, "modulation": modulation, "dropout": dropout}
        block = partial(Block, text=text_dim is not None, **options)
        half, double = Downsample, Upsample
        if check_choice("model.network.resampling", resampling, Resampling) == "residual":
            half = partial(block, resample=nn.AvgPool2d(2))
            double = partial(block, resample=nn.Upsample(scale_factor=2.0))
        levels = [(base_channels * times, side in attention) for times, side in zip(multipliers, sides, strict=True)]
        inputs = image_shape[0] * (2 if self.self_conditioning else 1)
        outputs = image_shape[0] * (2 if self.learned_variance else 1)
        self.stem = nn.Conv2d(inputs, base_channels, 3, padding=1)
        self.down, skips = _way_down(levels, base_channels, blocks, block, half)
        last = skips[-1]
        self.middle = nn.ModuleList([block(last, last, attention=True), block(last, last)])
        self.up = _way_up(levels, skips, blocks, block, double)
        width = levels[0][0]
        self.head = nn.Sequential(group_norm(width), nn.SiLU(), nn.Conv2d(width, outputs, 3, padding=1))

        fourier = check_choice("model.network.time_embedding", time_embedding, TimeEmbedding) == "fourier"
        self.waves = (RandomFourier if fourier else Sinusoidal)(base_channels)
        wide = 4 * base_channels
        self.embed = nn.Sequential(nn.Linear(base_channels, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, wide)
        self._build_telling(wide, [*self.down, *self.middle, *self.up])
        draw_weights(self)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        x0: Tensor | None = None,
    ) -> Tensor:
        """What the network says of noisy pictures.

        Args:
            x: (B, C, H, W), the noisy pictures.
            t: (B,), int64 or float: their times, in steps of the schedule.
            label: int64 (B,), 0 to K - 1 or ``null_label``; None: no class for all.
            text: (B, L, D), embeddings of tokens; None: no text for all.
            text_mask: bool (B, L): where there is a token; a row without any has no text. None: everywhere.
            x0: (B, C, H, W), the pictures last predicted, for self-conditioning; None: none yet, zeros.

        Returns:
            (B, C, H, W), or (B, 2 C, H, W) with learned variance.

        Raises:
            UsageError: a label, text or x0 for a network that was built without.
        """
        if label is not None and self.classes is None:
            raise UsageError("this Denoiser has no classes, but was given labels; set num_classes")
        if x0 is not None and not self.self_conditioning:
            raise UsageError("this Denoiser was given an earlier x0; set self_conditioning")
        told = self._told(self._embedding(t, label), text, text_mask)
        x = beside(x, x0) if self.self_conditioning else x
        x = self.stem(x.to(self.stem.weight.dtype))
        skips = [x]
        for layer in self.down:
            x = self._run(layer, x, *next(told))
            skips.append(x)
        for layer in self.middle:
            x = self._run(layer, x, *next(told))
        for layer in self.up:
            x = self._run(layer, x, *next(told), skips.pop() if layer.skip_channels else None)
        return self.head(x)

    def _embedding(self, t: Tensor, label: Tensor | None) -> Tensor:
        """Of time and class, (B, 4 base_channels)."""
        embedding = self.embed(self.waves(t).to(self.stem.weight.dtype))
        if self.classes is not None:
            embedding = embedding + (self.classes.weight[self.null_label] if label is None else self.classes(label))
        return embedding


Levels = Sequence[tuple[int, bool]]  # of each map, finest first: its channels, and whether it has attention


def _way_down(
    levels: Levels, channels: int, blocks: int, block: Callable[..., nn.Module], half: Callable[..., nn.Module]
) -> tuple[nn.ModuleList, list[int]]:
    """The layers from the finest map to the coarsest, and the channels before the first of them and after each."""
    layers, skips = nn.ModuleList(), [channels]
    for level, (width, attention) in enumerate(levels):
        if level:
            layers.append(half(skips[-1], skips[-1]))
            skips.append(skips[-1])
        for _ in range(blocks):
            layers.append(block(skips[-1], width, attention=attention))
            skips.append(width)
    return layers, skips


def _way_up(
    levels: Levels, skips: list[int], blocks: int, block: Callable[..., nn.Module], double: Callable[..., nn.Module]
) -> nn.ModuleList:
    """The layers from the coarsest map to the finest; each block takes a map from the way down, the last one first."""
    layers, channels, skips = nn.ModuleList(), skips[-1], list(skips)
    for level, (width, attention) in reversed(list(enumerate(levels))):
        for _ in range(blocks + 1):
            layers.append(block(channels, width, skips.pop(), attention))
            channels = width
        if level:
            layers.append(double(channels, channels))
    return layers


# --- what can be wrong ------------------------------------------------------------------------------------------------


def _check_numbers(
    base_channels: int, multipliers: Sequence[int], blocks: int, head_channels: int | None, dropout: float
) -> None:
    wrong = {
        "base_channels": (base_channels, base_channels < 4 or base_channels % 2, "an even number, from 4 up"),
        "multipliers": (tuple(multipliers), min(multipliers, default=0) < 1, "a whole number, from 1 up, for each map"),
        "blocks": (blocks, blocks < 1, "at least 1"),
        "head_channels": (head_channels, head_channels is not None and head_channels < 1, "at least 1, or null"),
        "dropout": (dropout, not 0 <= dropout < 1, "in [0, 1)"),
    }
    for name, (value, bad, right) in wrong.items():
        if bad:
            raise UsageError(f"model.network.{name} is {value}; it is {right}")


def _sides(size: tuple[int, int], maps: int) -> list[int]:
    """The larger side of each map."""
    step = 2 ** (maps - 1)
    if any(side % step for side in size):
        lower, upper = [max(step, side - side % step) for side in size], [side + -side % step for side in size]
        can = " or ".join(f"{height} x {width}" for height, width in ([lower] if lower == upper else [lower, upper]))
        most = min(side & -side for side in size).bit_length()  # one more than the twos that divide both sides
        raise UsageError(
            f"model.network.multipliers asks for {maps} maps, but pictures of {size[0]} x {size[1]} cannot be halved "
            f"{maps - 1} times; {can} pixels can, and these {most - 1} times: with {most} multipliers at most"
        )
    return [max(size) // 2**level for level in range(maps)]


def _check_attention(attention: Sequence[int], sides: list[int]) -> None:
    missing = [side for side in attention if side not in sides]
    if missing:
        raise UsageError(
            f"model.network.attention names a side of {missing[0]}, but the maps have {', '.join(map(str, sides))}; name "
            "some of these, or none: []"
        )
