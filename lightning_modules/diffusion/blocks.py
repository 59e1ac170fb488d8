"""Layers of the U-Nets of diffusion models: residual blocks, attention, text projection, resampling."""

import math
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
    """Build a group norm of 32 groups, or of the largest number below that divides the channels into groups of 4 or more.

    A group of one channel would remove the time embedding that is added to it.
    """
    most = min(32, max(1, channels // 4))
    groups = next(groups for groups in range(most, 0, -1) if channels % groups == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def concat_x0(x: Tensor, x0: Tensor | None) -> Tensor:
    """Concatenate x_t and the last predicted x0, zeros for None, to (B, 2 C, H, W): self-conditioning (Chen et al.
    2023)."""
    return torch.cat([x, torch.zeros_like(x) if x0 is None else x0], 1)


class FusedLinear(nn.Linear):
    """Linear layers of one input, computed as one: (..., inputs) -> (..., outputs) of each.

    Args:
        inputs: features of the common input.
        outputs: features of each output.
    """

    def __init__(self, inputs: int, outputs: Sequence[int]) -> None:
        super().__init__(inputs, sum(outputs))
        self.outputs = list(outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # split into the layers' outputs
        return super().forward(x).split(self.outputs, -1)


class TextKeys(NamedTuple):
    """Keys and values of a text's tokens for one attention.

    Args:
        keys_values: (B, L, 2 C), their keys, then their values.
        mask: bool (B, L): where there is a token.
    """

    keys_values: Tensor
    mask: Tensor


class TextProjection(nn.Module):
    """Projection of layer-normed token embeddings: their mean for the time embedding, and keys and values for every
    attention (Saharia et al. 2022, section 2.5 and appendix D.3.1).

    The keys and values do not depend on feature maps, so they are computed once for all attentions.

    Args:
        text_dim: D, of a token.
        wide: W, of the time's embedding.
        layers: ``word_channels`` of each layer.
    """

    def __init__(self, text_dim: int, wide: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.pool = nn.Sequential(nn.Linear(text_dim, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.words = FusedLinear(text_dim, layers)

    def forward(self, text: Tensor | None, mask: Tensor | None, n: int) -> tuple[Tensor, list[TextKeys]]:
        """Project a text for the network and for each of its layers.

        Args:
            text: (B, L, D) token embeddings; None: no text.
            mask: bool (B, L): where there is a token; None: everywhere.
            n: B.

        Returns:
            Pooled text (B, W), and keys and values of each layer.
        """
        if text is None:
            weight = self.words.weight
            text, mask = weight.new_zeros(n, 1, weight.shape[1]), weight.new_zeros(n, 1, dtype=torch.bool)
        elif mask is None:
            mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        tokens = self.norm(text.to(self.norm.weight.dtype))
        return self.pool(mean_of_tokens(tokens, mask)), [TextKeys(part, mask) for part in self.words(tokens)]


def mean_of_tokens(tokens: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean of tokens (B, L, D) where the mask (B, L) is True: (B, D), zeros without any token."""
    there = mask[..., None].to(tokens.dtype)
    return (tokens * there).sum(1) / there.sum(1).clamp(min=1)


class Attention(nn.Module):
    """Residual attention of pixels to all pixels and to the tokens of a text, (B, C, H, W) -> (B, C, H, W).

    The tokens are additional keys and values (Saharia et al. 2022, appendix D.3.1).

    Args:
        channels: C.
        head_channels: of each head; None: one head of all.
        to_pixels: False: attend to tokens only. One zero key and value is then added, so that the attention is defined for
            a text without tokens.
        positions: add the positions of pixels to what their queries and keys are computed from, see ``encode_positions``.
    """

    def __init__(
        self, channels: int, head_channels: int | None = None, to_pixels: bool = True, positions: bool = False
    ) -> None:
        super().__init__()
        self.head_channels, self.positions = head_channels or channels, positions
        if channels % self.head_channels:
            raise UsageError(
                f"model.network.head_channels must divide the channels of every map with attention and of the smallest, "
                f"got {head_channels} for {channels} channels"
            )
        self.norm = group_norm(channels)
        self.query_key_value = FusedLinear(channels, (3 if to_pixels else 1) * [channels])
        self.out = nn.Linear(channels, channels)
        self.text_maps: list[Tensor] | None = None  # see record_text_attention

    def forward(self, x: Tensor, words: TextKeys | None = None) -> Tensor:
        pixels = self.norm(x).flatten(2).mT.contiguous()  # (B, H W, C): no copy under channels_last
        query, *keys_values = self.query_key_value(pixels)
        if self.positions:
            query, keys_values = self._place(query, keys_values, x.shape[2:])
        keys_values = keys_values or 2 * [torch.zeros_like(query[:, :1])]
        mask = None
        if words is not None:
            mask = F.pad(words.mask, (keys_values[0].shape[1], 0), value=True)[:, None, None]  # (B, 1, 1, keys)
            both = zip(keys_values, words.keys_values.chunk(2, -1), strict=True)
            keys_values = [torch.cat(parts, 1) for parts in both]
        # (B, heads, pixels or keys, head_channels) each
        heads = [part.unflatten(2, (-1, self.head_channels)).transpose(1, 2) for part in (query, *keys_values)]
        queries, keys, values = heads
        attended = attend(queries, keys, values, mask)
        if self.text_maps is not None and words is not None and mask is not None:
            to_words = _probabilities(queries, keys, mask)[..., -words.mask.shape[1] :]
            self.text_maps.append(to_words.mT.unflatten(2, x.shape[2:]))
        return x + self.out(attended.transpose(1, 2).flatten(2)).mT.unflatten(2, x.shape[2:])

    def _place(self, query: Tensor, keys_values: list[Tensor], size: torch.Size) -> tuple[Tensor, list[Tensor]]:
        """Add the projected positions of the pixels to queries and keys, not to values.

        The projection is linear: W (pixel + position) = W pixel + W position.
        """
        channels = query.shape[-1]
        positions = encode_positions(size[0], size[1], channels, query.device)
        weight = self.query_key_value.weight[: channels * (2 if keys_values else 1)]
        of_query, *of_key = F.linear(positions.to(weight.dtype), weight).to(query.dtype).split(channels, -1)
        keys = [key + place for key, place in zip(keys_values, of_key, strict=False)]  # none if only words are keys
        return query + of_query, keys + keys_values[1:]


def encode_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Encode the positions of pixels by sines and cosines of their rows and columns: float32 (H W, channels).

    As Vaswani et al. (2017, section 3.5), but from four sides to a quarter of a side per wave, because maps are small.
    """
    waves = -(-channels // 4)
    frequencies = 2 * math.pi * torch.linspace(-2, 2, waves, device=device).exp2()
    angles = [(torch.arange(side, device=device) + 0.5)[:, None] / side * frequencies for side in (height, width)]
    rows, columns = (torch.cat([angle.sin(), angle.cos()], 1) for angle in angles)
    both = [rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)]
    return torch.cat(both, 2).flatten(0, 1)[:, :channels]


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, equation 1), (B, heads, queries, head_channels).

    On CPUs the fused kernel is used in float32 also where the inputs are bf16: its backward pass in bf16 takes up to five
    times as long.

    Args:
        queries: (B, heads, queries, head_channels).
        keys, values: (B, heads, keys, head_channels).
        mask: bool, broadcasts to (B, heads, queries, keys); True where a query attends to a key; None: everywhere.
    """
    if queries.device.type != "cpu" or queries.dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        attended = F.scaled_dot_product_attention(queries.float(), keys.float(), values.float(), attn_mask=mask)
        return attended.to(queries.dtype)


def _probabilities(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """Compute attention probabilities, mean over heads: float32 (B, queries, keys)."""
    scores = (query.float() @ key.float().mT) / query.shape[-1] ** 0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).mean(1)


@contextmanager
def record_text_attention(network: nn.Module) -> Iterator[list[Tensor]]:
    """Record within the context the attention of pixels to tokens.

    Yields a list that grows by one map (B, L, h, w) float32 for each attention to a text: the attention probability, mean
    over heads, of each pixel to each token.
    """
    maps: list[Tensor] = []
    attentions = [module for module in network.modules() if isinstance(module, Attention)]
    for attention in attentions:
        attention.text_maps = maps
    try:
        yield maps
    finally:
        for attention in attentions:
            attention.text_maps = None


class Layer(nn.Module):
    """Base of a U-Net's layers, called as ``layer(x, time, words, skip)``.

    Attributes:
        time_channels: size of its slice of the time embedding.
        word_channels: size of its keys and values of a token.
        skip_channels: of the skip connection from the encoder, concatenated to the input.
    """

    time_channels, word_channels, skip_channels = 0, 0, 0


class Block(Layer):
    """Residual block conditioned on the time, optionally followed by attention.

    Twice: group norm, swish, 3x3 convolution; (B, in + skip, H, W) -> (B, out, H, W), or half or twice H and W. The time
    comes before the second norm, added to the map, or after it, as scale and shift of the normalised map: "adaptive group
    norm", GN(h) (1 + scale) + shift (Dhariwal & Nichol 2021, section 3).

    Args:
        in_channels, out_channels: of the map.
        skip_channels: of the skip connection from the encoder, concatenated to the input.
        attention: apply attention after the block.
        head_channels, to_pixels, positions: see Attention.
        text: the attention also attends to tokens.
        modulation: add or adaptive.
        dropout: before the second convolution, in [0, 1).
        resample: applied to both branches before their first convolution.
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
        positions: bool = False,
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
        self.attention = Attention(out_channels, head_channels, to_pixels, positions) if attention else None

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


class Downsample(Layer):
    """3x3 convolution of stride 2, padded below and on the right. Called like a Block; ignores the time."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2)

    def forward(self, x: Tensor, time: Tensor, words: None = None, skip: None = None) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(Layer):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution. Called like a Block; ignores the time.

    Computed as the equivalent transposed 4x4 convolution, with 4 instead of 9 products a pixel. Its weights are sums of
    those 3x3 weights that are applied to copies of the same pixel.
    """

    spread: Tensor

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
    """Base of the U-Nets whose layers are conditioned on slices of one embedding, and on the tokens of a text.

    Args:
        text_dim: D, of the tokens of a text; None: the network takes no text.
        gradient_checkpointing: store only the inputs of layers, and compute the rest again in the backward pass.
        patch_size: side of the patches whose pixels become channels; 1: pixels stay pixels.
    """

    head: nn.Sequential

    def __init__(self, text_dim: int | None = None, gradient_checkpointing: bool = False, patch_size: int = 1) -> None:
        super().__init__()
        self.text_dim, self.gradient_checkpointing = text_dim, gradient_checkpointing
        self.patch_size = patch_size

    def _build_conditioning(self, wide: int, layers: Sequence[Layer]) -> None:
        """Add the projections of an embedding (B, wide), and of a text, for these layers in order."""
        self.tell = FusedLinear(wide, [layer.time_channels for layer in layers])
        words = [layer.word_channels for layer in layers]
        self.read = None if self.text_dim is None else TextProjection(self.text_dim, wide, words)

    def _layer_conditions(
        self, embedding: Tensor, text: Tensor | None, mask: Tensor | None
    ) -> Iterator[tuple[Tensor, TextKeys | None]]:
        """Project the embedding (B, wide) and the text for each layer: (B, time_channels), and keys and values."""
        words: Iterable[TextKeys | None] = repeat(None)
        if self.read is not None:
            pooled, words = self.read(text, mask, embedding.shape[0])  # not len, a constant in exported graphs
            embedding = embedding + pooled
        elif text is not None:
            raise UsageError(f"this {type(self).__name__} takes no text, but got one; set text_dim")
        return zip(self.tell(F.silu(embedding)), words, strict=False)

    def _run(self, layer: Layer, *inputs: Tensor | TextKeys | None) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


def check_network_shape(image_shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Return a network's (C, H, W).

    Raises:
        UsageError: the shape is missing or invalid.
    """
    if image_shape is None or len(image_shape) != 3 or min(image_shape) < 1:
        raise UsageError(
            "model.network.image_shape must be channels, height and width of the images, such as (3, 32, 32), got "
            f"{image_shape}"
        )
    channels, height, width = image_shape
    return channels, height, width


def layers_of(*lists: nn.ModuleList) -> list[Layer]:
    """Return the layers of module lists, in order."""
    return [layer for modules in lists for layer in modules if isinstance(layer, Layer)]


@torch.no_grad()
def init_weights(network: TimedUNet) -> None:
    """Initialize weights Glorot-uniform and biases zero; zero the last layer of all blocks and attentions, and the last
    convolution of the head."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            parts = module.outputs if isinstance(module, FusedLinear) else len(module.weight)
            for part in module.weight.split(parts):
                if len(part):
                    nn.init.xavier_uniform_(part)
    for module in network.modules():
        if isinstance(module, Block):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, Attention):
            nn.init.zeros_(module.out.weight)
    last = network.head[-1]
    if isinstance(last, nn.Conv2d):
        nn.init.zeros_(last.weight)
