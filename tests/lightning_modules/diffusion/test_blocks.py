"""Blocks: text attention, projection of texts, and recording of attention maps."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.blocks import (
    Attention,
    Block,
    TextKeys,
    TextProjection,
    attend,
    encode_positions,
    record_text_attention,
)
from darkroom.lightning_modules.diffusion.unet import DenoisingUNet


def randomize(module: nn.Module, std: float = 0.3) -> nn.Module:
    """Randomize all weights of a module, including zero-initialized ones."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module.eval()


def words(*there: int, channels: int = 8, length: int = 5) -> TextKeys:
    """Return keys and values of texts with given numbers of tokens."""
    mask = torch.arange(length)[None] < torch.tensor(there)[:, None]
    return TextKeys(torch.randn(len(there), length, 2 * channels), mask)


@pytest.mark.parametrize("to_pixels", [True, False])
def test_words_are_additional_keys_and_values(to_pixels: bool) -> None:
    attention, x, text = randomize(Attention(8, 4, to_pixels)), torch.randn(2, 8, 3, 2), words(5, 5)
    query, *own = attention.query_key_value(attention.norm(x).flatten(2).mT)
    own = own or [torch.zeros(2, 1, 8)] * 2
    keys, values = (torch.cat(parts, 1) for parts in zip(own, text.keys_values.chunk(2, -1), strict=True))
    looks = [
        (query[..., head] @ keys[..., head].mT / 2).softmax(-1) @ values[..., head]
        for head in (slice(0, 4), slice(4, 8))
    ]
    expected = x + attention.out(torch.cat(looks, -1)).mT.unflatten(2, (3, 2))
    torch.testing.assert_close(attention(x, text), expected)


def test_attention_on_cpu_is_computed_in_float32_or_float64() -> None:
    queries, keys, values = (torch.randn(2, 3, 7, 4, dtype=torch.float64) for _ in range(3))
    exact = (queries @ keys.mT / 2).softmax(-1) @ values
    torch.testing.assert_close(attend(queries, keys, values), exact, atol=1e-12, rtol=0)
    half = [part.bfloat16() for part in (queries, keys, values)]
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*half)
    full = [part.double() for part in half]
    expected = (full[0] @ full[1].mT / 2).softmax(-1) @ full[2]
    torch.testing.assert_close(found, expected.bfloat16(), atol=0, rtol=2**-8)  # one rounding, that of the result


@pytest.mark.parametrize("to_pixels", [True, False])
def test_masked_words_are_ignored(to_pixels: bool) -> None:
    attention, x, (text, mask) = randomize(Attention(8, 4, to_pixels)), torch.randn(2, 8, 3, 3), words(3, 0)
    seen = attention(x, TextKeys(text, mask))
    torch.testing.assert_close(seen[:1], attention(x[:1], TextKeys(text[:1, :3], mask[:1, :3])))
    torch.testing.assert_close(seen[1:], attention(x[1:]))  # without words as without text
    others = torch.where(mask[..., None], text, torch.full_like(text, 1e4))
    torch.testing.assert_close(attention(x, TextKeys(others, mask)), seen)


def test_text_only_attention_does_not_mix_pixels() -> None:
    attention, text = randomize(Attention(8, to_pixels=False)), words(2)
    attention.norm = nn.Identity()  # the norm would mix pixels
    x = torch.randn(1, 8, 3, 3, requires_grad=True)
    attention(x, text)[..., 0, 0].sum().backward()
    assert x.grad[..., 0, 0].abs().min() > 0
    x.grad[..., 0, 0] = 0
    assert x.grad.abs().max() == 0


def test_text_projection_normalizes_and_pools_tokens() -> None:
    reader, text = randomize(TextProjection(6, 12, [0, 8, 4])), torch.randn(2, 3, 6)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    pooled, text_keys = reader(text, mask, 2)
    tokens = reader.norm(text)
    mean = torch.stack([tokens[0, :2].mean(0), torch.zeros(6)])
    torch.testing.assert_close(pooled, reader.pool(mean))
    assert [one.keys_values.shape for one in text_keys] == [(2, 3, 0), (2, 3, 8), (2, 3, 4)]
    torch.testing.assert_close(
        torch.cat([one.keys_values for one in text_keys], -1), F.linear(tokens, *weights(reader))
    )
    torch.testing.assert_close(reader(1000 * text + 7, mask, 2)[0], pooled, rtol=1e-3, atol=1e-3)  # layer-normed
    without, _ = reader(None, None, 2)
    torch.testing.assert_close(without, pooled[[1, 1]])


def weights(reader: TextProjection) -> tuple[Tensor, Tensor]:
    return reader.words.weight, reader.words.bias


def test_word_channels_follow_attention_and_text() -> None:
    text_keys = [
        Block(8, 12, attention=look, text=text).word_channels for look in (False, True) for text in (False, True)
    ]
    assert text_keys == [0, 0, 0, 24]


# --- recording --------------------------------------------------------------------------------------------------------


def test_attention_weights_of_words_are_recorded() -> None:
    attention, x, text = randomize(Attention(8, 4)), torch.randn(2, 8, 2, 3), words(4, 2)
    expected = attention(x, text)
    with record_text_attention(attention) as maps:
        assert torch.equal(attention(x, text), expected)
        attention(x)  # without text nothing is recorded
    assert [seen.shape for seen in maps] == [(2, 5, 2, 3)]
    assert maps[0].min() >= 0
    assert maps[0].sum(1).max() < 1  # the rest is on pixels
    assert maps[0][0, 4].abs().max() == 0
    assert maps[0][1, 2:].abs().max() == 0
    # a key that matches every query gets all the attention
    loud = text.keys_values.clone()
    attention.query_key_value.bias.data[:8] = 3.0
    loud[:, 1, :8] = 40.0
    with record_text_attention(attention) as maps:
        attention(x, TextKeys(loud, text.mask))
    assert maps[0][:, 1].min() > 0.99


def test_recording_stops_after_an_error() -> None:
    network = randomize(
        DenoisingUNet((3, 8, 8), base_channels=8, multipliers=(1, 2), blocks=1, attention=(4,), text_dim=6)
    )
    x, t, text = torch.randn(2, 3, 8, 8), torch.tensor([3, 900]), torch.randn(2, 4, 6)
    with record_text_attention(network) as maps:
        network(x, t, text=text)
    assert [seen.shape for seen in maps] == [(2, 4, 4, 4)] * 4  # encoder, middle, and twice in the decoder
    with pytest.raises(UsageError), record_text_attention(network):
        network(x, t, x0=x)
    network(x, t, text=text)
    assert len(maps) == 4
    assert all(module.text_maps is None for module in network.modules() if isinstance(module, Attention))


def test_positions_are_added_to_what_queries_and_keys_are_computed_from() -> None:
    attention, x, text = randomize(Attention(8, 4, positions=True)), torch.randn(2, 8, 3, 2), words(5, 5)
    pixels = attention.norm(x).flatten(2).mT
    placed = pixels + encode_positions(3, 2, 8, x.device)
    query, key, _ = attention.query_key_value(placed)
    value = attention.query_key_value(pixels)[2]
    keys, values = (torch.cat(parts, 1) for parts in zip((key, value), text.keys_values.chunk(2, -1), strict=True))
    heads = [part.unflatten(2, (2, 4)).transpose(1, 2) for part in (query, keys, values)]
    expected = x + attention.out(attend(*heads).transpose(1, 2).flatten(2)).mT.unflatten(2, (3, 2))
    torch.testing.assert_close(attention(x, text), expected)


@pytest.mark.parametrize("channels", [4, 6, 32])
def test_every_pixel_has_its_own_position(channels: int) -> None:
    positions = encode_positions(16, 8, channels, torch.device("cpu"))
    assert positions.shape == (128, channels)
    assert torch.cdist(positions, positions).add(torch.eye(128) * 9).min() > 0.05
