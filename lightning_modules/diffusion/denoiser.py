"""Denoiser: the U-Net of diffusion models (Ho et al. 2020, appendix B), and what Dhariwal & Nichol (2021) made of it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from darkroom.errors import UsageError
from lightning_modules.base import one_of
from lightning_modules.diffusion.time_embedding import RandomFourier, Sinusoidal

TimeEmbedding = Literal["sinusoidal", "fourier"]
Modulation = Literal["add", "adaptive"]
Resampling = Literal["conv", "residual"]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of 32 groups; of the most below that divide the channels and leave 4 at least to each.

    A group of one channel would take off again what the time adds to that channel.
    """
    most = min(32, max(1, channels // 4))
    groups = next(groups for groups in range(most, 0, -1) if channels % groups == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def beside(x: Tensor, x0: Tensor | None) -> Tensor:
    """Self-conditioning's input (Chen et al. 2023): x_t and the x0 last predicted, None being zeros -> (B, 2 C, H, W)."""
    return torch.cat([x, torch.zeros_like(x) if x0 is None else x0], 1)


class SideBySide(nn.Linear):
    """Linear layers of one input, computed as one: (..., inputs) -> (..., outputs) of each.

    Args:
        inputs: of all.
        outputs: of each.
    """

    def __init__(self, inputs: int, outputs: Sequence[int]) -> None:
        super().__init__(inputs, sum(outputs))
        self.outputs = list(outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return super().forward(x).split(self.outputs, -1)


class SelfAttention(nn.Module):
    """Group norm, attention of every pixel to all, a linear layer; added to the input (B, C, H, W).

    Args:
        channels: C.
        head_channels: of each head; None: one head of all.
    """

    def __init__(self, channels: int, head_channels: int | None = None) -> None:
        super().__init__()
        self.head_channels = head_channels or channels
        if channels % self.head_channels:
            raise UsageError(
                f"model.network.head_channels is {head_channels}, of which maps of {channels} channels cannot be made; it "
                "divides the channels of every map with attention, and of the smallest"
            )
        self.norm = group_norm(channels)
        self.query_key_value = SideBySide(channels, 3 * [channels])
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).mT.contiguous()  # (B, H W, C): no copy under channels_last
        # (B, heads, H W, head_channels) each
        heads = [part.unflatten(2, (-1, self.head_channels)).transpose(1, 2) for part in self.query_key_value(pixels)]
        attended = F.scaled_dot_product_attention(*heads)
        return x + self.out(attended.transpose(1, 2).flatten(2)).mT.unflatten(2, x.shape[2:])


class Block(nn.Module):
    """A residual block that is told the time, and self-attention after it if wanted.

    Twice: group norm, swish, 3x3 convolution; (B, in + skip, H, W) -> (B, out, H, W), or half or twice H and W. The time
    comes before the second norm, added to the map, or after it, as scale and shift of the normalised map: "adaptive group
    norm", GN(h) (1 + scale) + shift (Dhariwal & Nichol 2021, section 3).

    Args:
        in_channels, out_channels: of the map.
        skip_channels: of a map from the way down, put beside the first.
        attention: look around afterwards.
        head_channels: see SelfAttention.
        modulation: add or adaptive.
        dropout: before the second convolution, in [0, 1).
        resample: applied to both branches before their first convolution.

    Attributes:
        time_channels: how many numbers it is told of the time.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        skip_channels: int = 0,
        attention: bool = False,
        head_channels: int | None = None,
        modulation: Modulation = "add",
        dropout: float = 0.0,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.skip_channels, self.adaptive = skip_channels, modulation == "adaptive"
        self.time_channels = out_channels * (2 if self.adaptive else 1)
        inputs = in_channels + skip_channels
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, out_channels, 3, padding=1)
        self.norm2, self.conv2 = group_norm(out_channels), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.resample = resample or nn.Identity()
        self.shortcut = nn.Identity() if inputs == out_channels else nn.Conv2d(inputs, out_channels, 1)
        self.attention = SelfAttention(out_channels, head_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = torch.cat([x, skip], 1)
        time = time[:, :, None, None]
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        if self.adaptive:
            scale, shift = time.chunk(2, 1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + time)
        h = self.conv2(self.dropout(F.silu(h)))
        return self.attention(self.shortcut(self.resample(x)) + h)


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2, padded below and on the right, in the place of a Block: the time is not looked at."""

    time_channels, skip_channels = 0, 0

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Every pixel four times, then a 3x3 convolution, in the place of a Block: the time is not looked at.

    Computed as the transposed 4x4 convolution that it is, with 4 products in the place of 9. Its weights are sums of the
    3x3 ones: of those that meet copies of the same pixel.
    """

    time_channels, skip_channels = 0, 0

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        places = torch.arange(3)[:, None] + torch.arange(4)
        meet = ((places == 2) | (places == 3)).to(self.conv.weight)
        self.register_buffer("spread", torch.kron(meet, meet), persistent=False)  # (9, 16)

    def forward(self, x: Tensor, time: Tensor, skip: None = None) -> Tensor:
        weight = (self.conv.weight.flatten(2) @ self.spread).unflatten(2, (4, 4)).transpose(0, 1)
        return F.conv_transpose2d(x, weight, self.conv.bias, stride=2, padding=1)


class Denoiser(nn.Module):
    """The U-Net that says what is noise in a picture: x_t (B, C, H, W), t (B,) -> (B, C, H, W), in the network's dtype.

    The defaults are the CIFAR-10 network of Ho et al. (2020), 35,746,307 parameters for (3, 32, 32), in all but names the
    authors': residual blocks with group norm and swish, one more per map on the way up, where each takes a map from the way
    down beside its own; attention at 16x16 and in the middle; weights Glorot-uniform, but zero in the last layer of every
    block, of every attention, and of the network, which so begins as the answer 0. The networks of Nichol & Dhariwal (2021)
    and Dhariwal & Nichol (2021, "ADM") by options: CIFAR-10 52.5 M with blocks 3, attention (16, 8), head_channels 64,
    modulation adaptive, learned_variance; ImageNet 64 (296 M) base_channels 192, multipliers (1, 2, 3, 4), blocks 3,
    attention (32, 16, 8), head_channels 64, modulation adaptive, resampling residual, learned_variance.

    Pictures of other sizes than ``image_shape``'s that can be halved as often may be given, too.

    Args:
        image_shape: (C, H, W); the command line takes it, and the other three that are None here, from the model.
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
    ) -> None:
        super().__init__()
        _check_numbers(base_channels, multipliers, blocks, head_channels, dropout)
        sides = _sides(image_shape, len(multipliers))
        if isinstance(attention, int):
            attention = [side for side in sides if side <= attention]
        _check_attention(attention, sides)
        one_of("model.network.modulation", modulation, Modulation)
        self.image_shape, self.num_classes, self.null_label = tuple(image_shape), num_classes, num_classes
        self.learned_variance, self.self_conditioning = bool(learned_variance), bool(self_conditioning)
        self.gradient_checkpointing = gradient_checkpointing

        block = partial(Block, head_channels=head_channels, modulation=modulation, dropout=dropout)
        half, double = Downsample, Upsample
        if one_of("model.network.resampling", resampling, Resampling) == "residual":
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

        fourier = one_of("model.network.time_embedding", time_embedding, TimeEmbedding) == "fourier"
        self.waves = (RandomFourier if fourier else Sinusoidal)(base_channels)
        wide = 4 * base_channels
        self.embed = nn.Sequential(nn.Linear(base_channels, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, wide)
        self.tell = SideBySide(wide, [layer.time_channels for layer in (*self.down, *self.middle, *self.up)])
        _draw_weights(self)

    def forward(self, x: Tensor, t: Tensor, *, label: Tensor | None = None, x0: Tensor | None = None) -> Tensor:
        """What the network says of noisy pictures.

        Args:
            x: (B, C, H, W), the noisy pictures.
            t: (B,), int64 or float: their times, in steps of the schedule.
            label: int64 (B,), 0 to K - 1 or ``null_label``; None: no class for all.
            x0: (B, C, H, W), the pictures last predicted, for self-conditioning; None: none yet, zeros.

        Returns:
            (B, C, H, W), or (B, 2 C, H, W) with learned variance.

        Raises:
            UsageError: a label or x0 for a network that was built without.
        """
        if label is not None and self.classes is None:
            raise UsageError("this Denoiser has no classes, but was given labels; set num_classes")
        if x0 is not None and not self.self_conditioning:
            raise UsageError("this Denoiser was given an earlier x0; set self_conditioning")
        x = beside(x, x0) if self.self_conditioning else x
        times = iter(self._times(t, label))
        x = self.stem(x.to(self.stem.weight.dtype))
        skips = [x]
        for layer in self.down:
            x = self._run(layer, x, next(times))
            skips.append(x)
        for layer in self.middle:
            x = self._run(layer, x, next(times))
        for layer in self.up:
            x = self._run(layer, x, next(times), skips.pop() if layer.skip_channels else None)
        return self.head(x)

    def _times(self, t: Tensor, label: Tensor | None) -> tuple[Tensor, ...]:
        """What each layer is told of time and class, (B, time_channels) each, in their order."""
        embedding = self.embed(self.waves(t).to(self.stem.weight.dtype))
        if self.classes is not None:
            embedding = embedding + (self.classes.weight[self.null_label] if label is None else self.classes(label))
        return self.tell(F.silu(embedding))

    def _run(self, layer: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


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


@torch.no_grad()
def _draw_weights(network: Denoiser) -> None:
    """Glorot-uniform, biases zero; all zero in the last layer of every block, of every attention, and of the network."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.zeros_(module.bias)
            parts = module.outputs if isinstance(module, SideBySide) else len(module.weight)
            for part in module.weight.split(parts):
                if len(part):
                    nn.init.xavier_uniform_(part)
    for module in network.modules():
        if isinstance(module, Block):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, SelfAttention):
            nn.init.zeros_(module.out.weight)
    nn.init.zeros_(network.head[-1].weight)


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


def _sides(image_shape: tuple[int, int, int] | None, maps: int) -> list[int]:
    """The larger side of each map."""
    if image_shape is None or len(image_shape) != 3 or min(image_shape) < 1:
        raise UsageError(
            f"model.network.image_shape is {image_shape}; give channels, height and width of the pictures, such as "
            "(3, 32, 32)"
        )
    size, step = image_shape[1:], 2 ** (maps - 1)
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
