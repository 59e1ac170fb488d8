"""DenoisingUNet: the U-Net of DDPM (Ho et al. 2020, appendix B), with the options of ADM (Dhariwal & Nichol 2021)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

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
from darkroom.lightning_modules.diffusion.time_embedding import RandomFourier, Sinusoidal, Waves
from darkroom.lightning_modules.utils.arguments import check_choice

TimeEmbedding = Literal["sinusoidal", "fourier"]
Resampling = Literal["conv", "residual"]


class DenoisingUNet(TimedUNet):
    """U-Net that predicts noise, image or v: x_t (B, C, H, W), t (B,) -> (B, C, H, W), in the network's dtype.

    The defaults are the CIFAR-10 network of Ho et al. (2020), 35,746,307 parameters for (3, 32, 32): residual blocks with
    group norm and swish, one more per level in the decoder, each with a skip connection; attention at 16x16 and in the
    middle. Weights are Glorot-uniform, but zero in the last layer of every block, of every attention and of the network,
    whose first output is therefore 0. Networks of other papers, by options:

    - Nichol & Dhariwal (2021), CIFAR-10, 52.5 M: blocks 3, attention (16, 8), head_channels 64, modulation adaptive,
      learned_variance.
    - Dhariwal & Nichol (2021, "ADM"), ImageNet 64, 296 M: base_channels 192, multipliers (1, 2, 3, 4), blocks 3, attention
      (32, 16, 8), head_channels 64, modulation adaptive, resampling residual, learned_variance.
    - Imagen 64x64 (Saharia et al. 2022, which counts 2 B): the last one with base_channels 512, text_dim 4096 and no
      learned variance, 2,391 M; with modulation add and resampling conv 2,176 M.

    The network also takes images of other sizes than ``image_shape`` that can be halved as often.

    Args:
        image_shape: (C, H, W). The command line takes it from the model, as well as num_classes, learned_variance and
            self_conditioning.
        num_classes: K; an embedding of the class is added to the time embedding. Its last row is the null class.
        base_channels: of the first level; even, at least 4.
        multipliers: of base_channels, one for each level; each level has half the side of the one before.
        blocks: residual blocks of each level in the encoder; the decoder has one more.
        attention: sides of the maps (the larger side) with attention after every block; or one number: all maps up to this
            side. The middle always has attention.
        head_channels: of each attention head; None: one head of all channels.
        time_embedding: sinusoidal, or fourier: random frequencies.
        modulation: how the time enters a block: add or adaptive; see Block.
        resampling: conv, or residual: blocks that average or repeat 2x2 pixels in their branches.
        dropout: in blocks, in [0, 1).
        learned_variance: return 2 C channels; the second half is the variance.
        self_conditioning: take the last predicted x0 as additional input.
        word_attention: sides of further maps, whose blocks attend to the tokens only. Among all pixels of a large map the
            tokens of a caption get little attention.
        positions: add positions of the pixels to what the queries and keys of every attention are computed from.
        gradient_checkpointing: store only the inputs of layers and compute the rest again in the backward pass: the same
            gradients, less memory, a third more time.
        patch_size: p; the p x p pixels of a patch become channels of one, so that the first level has sides of H/p and W/p
            (Hoogeboom et al. 2023, section 3.3). At p = 2 the convolutions cost about a quarter.
        text_dim: D; the network takes tokens of a text. Their mean is added to the time embedding, and every attention
            attends to them.

    Attributes:
        null_label: K, the label of the null class; None without classes.
        built_for: arguments that must agree with the model's.

    Raises:
        UsageError: an image size that cannot be halved so often, attention at a side that no map has, or an option out of
            its range.
    """

    linked_arguments: ClassVar[tuple[str, ...]] = (
        "image_shape",
        "num_classes",
        "learned_variance",
        "self_conditioning",
    )

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
        word_attention: Sequence[int] = (),
        positions: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_numbers(base_channels, multipliers, blocks, head_channels, dropout)
        image_shape = check_network_shape(image_shape)
        words = () if self.text_dim is None else word_attention
        if word_attention and not words:
            raise UsageError("model.network.word_attention needs a text; set model.network.text_dim, or leave it out")
        levels = plan_levels(image_shape, base_channels, multipliers, attention, words, self.patch_size)
        check_choice("model.network.modulation", modulation, Modulation)
        self.image_shape, self.num_classes, self.null_label = image_shape, num_classes, num_classes
        self.learned_variance, self.self_conditioning = bool(learned_variance), bool(self_conditioning)

        self.built_for = {
            "image_shape": image_shape,
            "num_classes": num_classes,
            "learned_variance": self.learned_variance,
            "self_conditioning": self.self_conditioning,
        }
        block: BuildLayer = partial(
            Block,
            text=self.text_dim is not None,
            head_channels=head_channels,
            modulation=modulation,
            dropout=dropout,
            positions=positions,
        )
        half: BuildLayer = Downsample
        double: BuildLayer = Upsample
        if check_choice("model.network.resampling", resampling, Resampling) == "residual":
            half = partial(block, resample=nn.AvgPool2d(2))
            double = partial(block, resample=nn.Upsample(scale_factor=2.0))
        colours = image_shape[0] * self.patch_size**2
        inputs = colours * (2 if self.self_conditioning else 1)
        outputs = colours * (2 if self.learned_variance else 1)
        self.stem = nn.Conv2d(inputs, base_channels, 3, padding=1)
        self.down, skips = build_encoder(levels, base_channels, blocks, block, half)
        last = skips[-1]
        self.middle = nn.ModuleList([block(last, last, attention=True), block(last, last)])
        self.up = _build_decoder(levels, skips, blocks, block, double)
        width = levels[0].channels
        self.head = nn.Sequential(group_norm(width), nn.SiLU(), nn.Conv2d(width, outputs, 3, padding=1))

        fourier = check_choice("model.network.time_embedding", time_embedding, TimeEmbedding) == "fourier"
        self.waves: Waves = RandomFourier(base_channels) if fourier else Sinusoidal(base_channels)
        wide = 4 * base_channels
        self.embed = nn.Sequential(nn.Linear(base_channels, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, wide)
        self._build_conditioning(wide, layers_of(self.down, self.middle, self.up))
        init_weights(self)

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
        """Predict noise, image or v of noisy images.

        Args:
            x: noisy images (B, C, H, W).
            t: times (B,), int64 or float, in steps of the schedule.
            label: int64 (B,), 0 to K - 1 or ``null_label``; None: the null class.
            text: token embeddings (B, L, D); None: no text.
            text_mask: bool (B, L), True where there is a token; None: everywhere.
            x0: last predicted images (B, C, H, W), for self-conditioning; None: zeros.

        Returns:
            (B, C, H, W), or (B, 2 C, H, W) with learned variance.

        Raises:
            UsageError: a label, text or x0 that the network was not built for.
        """
        if label is not None and self.classes is None:
            raise UsageError("this DenoisingUNet takes no labels, but got some; set num_classes")
        if x0 is not None and not self.self_conditioning:
            raise UsageError("this DenoisingUNet takes no x0, but got one; set self_conditioning")
        conditions = self._layer_conditions(self._embedding(t, label), text, text_mask)
        x = concat_x0(x, x0) if self.self_conditioning else x
        x = x if self.patch_size == 1 else F.pixel_unshuffle(x, self.patch_size)
        x = self.stem(x.to(self.stem.weight.dtype))
        skips = [x]
        for layer in layers_of(self.down):
            x = self._run(layer, x, *next(conditions))
            skips.append(x)
        for layer in layers_of(self.middle):
            x = self._run(layer, x, *next(conditions))
        for layer in layers_of(self.up):
            x = self._run(layer, x, *next(conditions), skips.pop() if layer.skip_channels else None)
        x = self.head(x)
        return x if self.patch_size == 1 else F.pixel_shuffle(x, self.patch_size)

    def _embedding(self, t: Tensor, label: Tensor | None) -> Tensor:
        """Embed time and class: (B, 4 base_channels)."""
        embedding = self.embed(self.waves(t).to(self.stem.weight.dtype))
        if self.classes is None:
            return embedding
        return embedding + (self.classes.weight[-1] if label is None else self.classes(label))  # the last: null class


class Level(NamedTuple):
    """A level of a U-Net.

    Args:
        channels: of its maps.
        attention: apply attention after its blocks.
        to_pixels: the attention is to pixels and tokens, not to tokens only.
    """

    channels: int
    attention: bool
    to_pixels: bool = True


BuildLayer = Callable[..., Layer]


def plan_levels(
    image_shape: tuple[int, int, int],
    base_channels: int,
    multipliers: Sequence[int],
    attention: Sequence[int] | int,
    word_attention: Sequence[int] = (),
    patch_size: int = 1,
) -> list[Level]:
    """Return the levels of a U-Net, finest first; for the arguments see ``DenoisingUNet``.

    Raises:
        UsageError: an image size that cannot be halved so often, or attention at a side that no map has or of two kinds.
    """
    sides = map_sides(image_shape[1:], len(multipliers), patch_size)
    joint = [side for side in sides if side <= attention] if isinstance(attention, int) else attention
    _check_sides("attention", joint, sides)
    _check_sides("word_attention", word_attention, sides)
    both = sorted(set(joint) & set(word_attention))
    if both:
        raise UsageError(
            "model.network.word_attention must be of other sides than model.network.attention, which attends to words too, "
            f"got {both[0]} in both"
        )
    return [
        Level(base_channels * times, side in joint or side in word_attention, side not in word_attention)
        for times, side in zip(multipliers, sides, strict=True)
    ]


def build_encoder(
    levels: Sequence[Level], channels: int, blocks: int, block: BuildLayer, half: BuildLayer
) -> tuple[nn.ModuleList, list[int]]:
    """Build the layers from the finest level to the coarsest; return also the channels before and after each layer."""
    layers, skips = nn.ModuleList(), [channels]
    for index, level in enumerate(levels):
        if index:
            layers.append(half(skips[-1], skips[-1]))
            skips.append(skips[-1])
        for _ in range(blocks):
            layers.append(block(skips[-1], level.channels, attention=level.attention, to_pixels=level.to_pixels))
            skips.append(level.channels)
    return layers, skips


def _build_decoder(
    levels: Sequence[Level], skips: list[int], blocks: int, block: BuildLayer, double: BuildLayer
) -> nn.ModuleList:
    """Build the layers from the coarsest level to the finest; blocks take the encoder's outputs, the last one first."""
    layers, channels, skips = nn.ModuleList(), skips[-1], list(skips)
    for index, level in reversed(list(enumerate(levels))):
        for _ in range(blocks + 1):
            layers.append(
                block(channels, level.channels, skips.pop(), attention=level.attention, to_pixels=level.to_pixels)
            )
            channels = level.channels
        if index:
            layers.append(double(channels, channels))
    return layers


# --- checks ----------------------------------------------------------------------------------------------------------


def check_numbers(
    base_channels: int, multipliers: Sequence[int], blocks: int, head_channels: int | None, dropout: float
) -> None:
    """Raise a UsageError for options of a U-Net that are out of their range."""
    wrong = {
        "base_channels": (base_channels, base_channels < 4 or base_channels % 2, "an even number of at least 4"),
        "multipliers": (tuple(multipliers), min(multipliers, default=0) < 1, "an integer of at least 1 for each level"),
        "blocks": (blocks, blocks < 1, "at least 1"),
        "head_channels": (head_channels, head_channels is not None and head_channels < 1, "at least 1, or null"),
        "dropout": (dropout, not 0 <= dropout < 1, "in [0, 1)"),
    }
    for name, (value, bad, right) in wrong.items():
        if bad:
            raise UsageError(f"model.network.{name} must be {right}, got {value}")


def map_sides(size: tuple[int, int], maps: int, patch_size: int = 1) -> list[int]:
    """Compute the larger side of each level, finest first.

    Raises:
        UsageError: patches do not tile the image, or it cannot be halved so often.
    """
    if patch_size < 1 or any(side % patch_size for side in size):
        raise UsageError(
            f"model.network.patch_size must be at least 1 and divide both sides of the images, {size[0]} x {size[1]}, got "
            f"{patch_size}"
        )
    step = patch_size * 2 ** (maps - 1)
    if any(side % step for side in size):
        lower, upper = [max(step, side - side % step) for side in size], [side + -side % step for side in size]
        can = " or ".join(f"{height} x {width}" for height, width in ([lower] if lower == upper else [lower, upper]))
        patches = [side // patch_size for side in size]
        most = min(side & -side for side in patches).bit_length()  # one more than the twos that divide both sides
        unit = f" in patches of {patch_size} x {patch_size}" if patch_size > 1 else ""
        raise UsageError(
            f"model.network.multipliers must be at most {most} values for images of {size[0]} x {size[1]}{unit}, which can "
            f"be halved {most - 1} times, got {maps}; {can} pixels can be halved {maps - 1} times"
        )
    return [max(size) // (patch_size * 2**level) for level in range(maps)]


def _check_sides(name: str, chosen: Sequence[int], sides: list[int]) -> None:
    missing = [side for side in chosen if side not in sides]
    if missing:
        raise UsageError(
            f"model.network.{name} must be sides of maps ({', '.join(map(str, sides))}), or [] for none, got {missing[0]}"
        )
