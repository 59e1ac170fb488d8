"""Blocks: what the U-Nets of diffusion models are made of: residual blocks, attention, text, other sizes."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from darkroom.errors import UsageError

Modulation = Literal["add", "adaptive"]


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


class TextKeys(NamedTuple):
    """The tokens of a text as an attention takes them.

    Args:
        keys_values: (B, L, 2 C), their keys, then their values.
        mask: bool (B, L): where there is a token.
    """

    keys_values: Tensor
    mask: Tensor


class TextReader(nn.Module):
    """Token embeddings, layer-normed, as a network takes them: their mean, for the embedding of the time, and as keys and
    values for every attention (Saharia et al. 2022, section 2.1 and appendix D.1).

    The keys and values depend on no map: they are computed once, for all attentions together.

    Args:
        text_dim: D, of a token.
        wide: W, of the time's embedding.
        layers: for each layer, how many numbers it is told of a token: its word_channels.
    """

    def __init__(self, text_dim: int, wide: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.pool = nn.Sequential(nn.Linear(text_dim, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.words = SideBySide(text_dim, layers)

    def forward(self, text: Tensor | None, mask: Tensor | None, n: int) -> tuple[Tensor, list[TextKeys]]:
        """What the network, and each of its layers, is told of the text.

        Args:
            text: (B, L, D) token embeddings; None: no text.
            mask: bool (B, L): where there is a token; None: everywhere.
            n: B.

        Returns:
            (B, W), and for each layer its words.
        """
        if text is None:
            weight = self.words.weight
            text, mask = weight.new_zeros(n, 1, weight.shape[1]), weight.new_zeros(n, 1, dtype=torch.bool)
        elif mask is None:
            mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        tokens = self.norm(text.to(self.norm.weight.dtype))
        there = mask[..., None].to(tokens.dtype)
        mean = (tokens * there).sum(1) / there.sum(1).clamp(min=1)  # no token at all: zeros
        return self.pool(mean), [TextKeys(part, mask) for part in self.words(tokens)]


class Attention(nn.Module):
    """Group norm, attention of every pixel to all pixels, and to the words of a text if there is one, a linear layer; added
    to the input (B, C, H, W).

    The words are further keys and values beside the pixels' (Saharia et al. 2022, appendix D.1).

    Args:
        channels: C.
        head_channels: of each head; None: one head of all.
        to_pixels: False: to the words alone. The one key and value beside them is then zero, so that there is something
            to look at where there is no word.
    """

    def __init__(self, channels: int, head_channels: int | None = None, to_pixels: bool = True) -> None:
        super().__init__()
        self.head_channels = head_channels or channels
        if channels % self.head_channels:
            raise UsageError(
                f"model.network.head_channels is {head_channels}, of which maps of {channels} channels cannot be made; it "
                "divides the channels of every map with attention, and of the smallest"
            )
        self.norm = group_norm(channels)
        self.query_key_value = SideBySide(channels, (3 if to_pixels else 1) * [channels])
        self.out = nn.Linear(channels, channels)
        self.watched: list[Tensor] | None = None

    def forward(self, x: Tensor, words: TextKeys | None = None) -> Tensor:
        pixels = self.norm(x).flatten(2).mT.contiguous()  # (B, H W, C): no copy under channels_last
        query, *keys_values = self.query_key_value(pixels)
        keys_values = keys_values or 2 * [torch.zeros_like(query[:, :1])]
        mask = None
        if words is not None:
            mask = F.pad(words.mask, (keys_values[0].shape[1], 0), value=True)[:, None, None]  # (B, 1, 1, keys)
            both = zip(keys_values, words.keys_values.chunk(2, -1), strict=True)
            keys_values = [torch.cat(parts, 1) for parts in both]
        # (B, heads, pixels or keys, head_channels) each
        heads = [part.unflatten(2, (-1, self.head_channels)).transpose(1, 2) for part in (query, *keys_values)]
        attended = F.scaled_dot_product_attention(*heads, attn_mask=mask)
        if self.watched is not None and words is not None:
            seen = _probabilities(heads[0], heads[1], mask)[..., -words.mask.shape[1] :]
            self.watched.append(seen.mT.unflatten(2, x.shape[2:]))
        return x + self.out(attended.transpose(1, 2).flatten(2)).mT.unflatten(2, x.shape[2:])


def _probabilities(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """Of every key to every query, the mean over heads: float32 (B, queries, keys)."""
    scores = (query.float() @ key.float().mT) / query.shape[-1] ** 0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).mean(1)


@contextmanager
def watching_text(network: nn.Module) -> Iterator[list[Tensor]]:
    """Within, the list that is yielded grows by how much every pixel looked at every word, for each attention to a text.

    Each is (B, L, h, w) float32, a mean over heads: of every pixel's look, in [0, 1], the part that went to the word.
    """
    maps: list[Tensor] = []
    attentions = [module for module in network.modules() if isinstance(module, Attention)]
    for attention in attentions:
        attention.watched = maps
    try:
        yield maps
    finally:
        for attention in attentions:
            attention.watched = None


class Block(nn.Module):
    """A residual block that is told the time, and attention after it if wanted.

    Twice: group norm, swish, 3x3 convolution; (B, in + skip, H, W) -> (B, out, H, W), or half or twice H and W. The time
    comes before the second norm, added to the map, or after it, as scale and shift of the normalised map: "adaptive group
    norm", GN(h) (1 + scale) + shift (Dhariwal & Nichol 2021, section 3).

    Args:
        in_channels, out_channels: of the map.
        skip_channels: of a map from the way down, put beside the first.
        attention: look around afterwards.
        head_channels, to_pixels: see Attention.
        text: the attention looks at words, too.
        modulation: add or adaptive.
        dropout: before the second convolution, in [0, 1).
        resample: applied to both branches before their first convolution.

    Attributes:
        time_channels: how many numbers it is told of the time.
        word_channels: how many of each word.
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
        text: bool = False,
        to_pixels: bool = True,
    ) -> None:
        super().__init__()
        self.skip_channels, self.adaptive = skip_channels, modulation == "adaptive"
        self.time_channels = out_channels * (2 if self.adaptive else 1)
        self.word_channels = 2 * out_channels if attention and text else 0
        inputs = in_channels + skip_channels
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, out_channels, 3, padding=1)
        self.norm2, self.conv2 = group_norm(out_channels), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.resample = resample or nn.Identity()
        self.shortcut = nn.Identity() if inputs == out_channels else nn.Conv2d(inputs, out_channels, 1)
        self.attention = Attention(out_channels, head_channels, to_pixels) if attention else None

    def forward(self, x: Tensor, time: Tensor, words: TextKeys | None = None, skip: Tensor | None = None) -> Tensor:
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
        h = self.shortcut(self.resample(x)) + h
        return h if self.attention is None else self.attention(h, words)


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2, padded below and on the right, in the place of a Block: the time is not looked at."""

    time_channels, word_channels, skip_channels = 0, 0, 0

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2)

    def forward(self, x: Tensor, time: Tensor, words: None = None, skip: None = None) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Every pixel four times, then a 3x3 convolution, in the place of a Block: the time is not looked at.

    Computed as the transposed 4x4 convolution that it is, with 4 products in the place of 9. Its weights are sums of the
    3x3 ones: of those that meet copies of the same pixel.
    """

    time_channels, word_channels, skip_channels = 0, 0, 0

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        places = torch.arange(3)[:, None] + torch.arange(4)
        meet = ((places == 2) | (places == 3)).to(self.conv.weight)
        self.register_buffer("spread", torch.kron(meet, meet), persistent=False)  # (9, 16)

    def forward(self, x: Tensor, time: Tensor, words: None = None, skip: None = None) -> Tensor:
        weight = (self.conv.weight.flatten(2) @ self.spread).unflatten(2, (4, 4)).transpose(0, 1)
        return F.conv_transpose2d(x, weight, self.conv.bias, stride=2, padding=1)


class TimedUNet(nn.Module):
    """Base of the networks of layers in a row, each told its part of one embedding, and of the words of a text.

    Args:
        text_dim: D, of the tokens of a text; None: it is told none.
        gradient_checkpointing: keep what goes into layers alone, and compute the rest again in the backward pass.
    """

    def __init__(self, text_dim: int | None, gradient_checkpointing: bool) -> None:
        super().__init__()
        self.text_dim, self.gradient_checkpointing = text_dim, gradient_checkpointing

    def _build_telling(self, wide: int, layers: Sequence[nn.Module]) -> None:
        """Adds what tells the layers, in this order, from an embedding of ``wide`` numbers."""
        self.tell = SideBySide(wide, [layer.time_channels for layer in layers])
        words = [layer.word_channels for layer in layers]
        self.read = None if self.text_dim is None else TextReader(self.text_dim, wide, words)

    def _told(
        self, embedding: Tensor, text: Tensor | None, mask: Tensor | None
    ) -> Iterator[tuple[Tensor, TextKeys | None]]:
        """What each layer is told: (B, time_channels) of the embedding (B, wide) and of the whole text, and the words."""
        words: Iterable[TextKeys | None] = repeat(None)
        if self.read is not None:
            pooled, words = self.read(text, mask, len(embedding))
            embedding = embedding + pooled
        elif text is not None:
            raise UsageError(f"this {type(self).__name__} reads no text, but was given one; set text_dim")
        return zip(self.tell(F.silu(embedding)), words, strict=False)

    def _run(self, layer: nn.Module, *inputs: Tensor | TextKeys | None) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


def known_shape(image_shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """A network's (C, H, W).

    Raises:
        UsageError: it is none.
    """
    if image_shape is None or len(image_shape) != 3 or min(image_shape) < 1:
        raise UsageError(
            f"model.network.image_shape is {image_shape}; give channels, height and width of the pictures, such as "
            "(3, 32, 32)"
        )
    return tuple(image_shape)


@torch.no_grad()
def draw_weights(network: nn.Module) -> None:
    """Glorot-uniform, biases zero; all zero in the last layer of every block, of every attention, and of the network.

    Args:
        network: a U-Net, whose last layer is that of its ``head``.
    """
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
        elif isinstance(module, Attention):
            nn.init.zeros_(module.out.weight)
    nn.init.zeros_(network.head[-1].weight)
