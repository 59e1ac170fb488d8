"""DenoisingUNet: parameter counts of the papers and the effect of each option."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.blocks import Attention, Block, Upsample, group_norm, record_text_attention
from darkroom.lightning_modules.diffusion.time_embedding import RandomFourier, Sinusoidal
from darkroom.lightning_modules.diffusion.unet import DenoisingUNet
from tests.contracts.network import DenseNetworkContract

VARIANTS: dict[str, dict[str, Any]] = {
    "ho": {},
    "adm": {"modulation": "adaptive", "resampling": "residual", "time_embedding": "fourier", "head_channels": 4},
}


def tiny(image_shape: tuple[int, int, int] = (3, 16, 16), **options: Any) -> DenoisingUNet:
    """Build a network of two resolutions with randomized zero layers, as after some training."""
    torch.manual_seed(0)
    options = {"base_channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (8,), **options}
    network = DenoisingUNet(image_shape, **options)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def noisy(n: int = 2, shape: tuple[int, int, int] = (3, 16, 16)) -> tuple[Tensor, Tensor]:
    return torch.randn(n, *shape), torch.randint(1000, (n,))


class FixedTime(nn.Module):
    """Wrap a denoiser for the contract, which passes only images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, torch.full((len(x),), 300))


class TestDenoisingUNet(DenseNetworkContract):
    num_classes = 3  # channels in, channels out
    sizes = [(16, 16), (32, 32), (16, 40), (2, 2)]

    def build(self) -> nn.Module:
        return FixedTime(tiny())


class TestDenoisingUNetOfWords(TestDenoisingUNet):
    def build(self) -> nn.Module:
        return FixedTime(tiny(text_dim=6, word_attention=(16,), positions=True))


class TestDenoisingUNetOfPatches(TestDenoisingUNet):
    sizes = [(16, 16), (32, 32), (16, 40), (4, 4)]

    def build(self) -> nn.Module:
        return FixedTime(tiny(patch_size=2))


class TestADM(TestDenoisingUNet):
    num_classes = 6

    def build(self) -> nn.Module:
        return FixedTime(tiny(**VARIANTS["adm"], learned_variance=True, num_classes=5, self_conditioning=True))


@pytest.mark.parametrize(
    ("parameters", "image_shape", "options"),
    [
        pytest.param(35_746_307, (3, 32, 32), {}, id="ho-cifar"),
        pytest.param(113_673_219, (3, 256, 256), {"multipliers": (1, 1, 2, 2, 4, 4)}, id="ho-lsun"),
        pytest.param(
            52_546_438,
            (3, 32, 32),
            {"blocks": 3, "attention": (16, 8), "modulation": "adaptive", "learned_variance": True},
            id="improved-cifar",
        ),
        pytest.param(
            552_814_086,
            (3, 256, 256),
            {
                **{"base_channels": 256, "multipliers": (1, 1, 2, 2, 4, 4), "attention": (32, 16, 8)},
                **{"head_channels": 64, "modulation": "adaptive", "resampling": "residual", "learned_variance": True},
            },
            id="adm-lsun",
        ),
        pytest.param(
            2_176_465_411,
            (3, 64, 64),
            {
                **{"base_channels": 512, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (32, 16, 8)},
                **{"head_channels": 64, "text_dim": 4096},
            },
            id="imagen-64",  # 2 B
        ),
    ],
)
def test_parameter_counts_match_papers(
    parameters: int, image_shape: tuple[int, int, int], options: dict[str, Any]
) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in DenoisingUNet(image_shape, **options).parameters()) == parameters


def test_default_layout_matches_paper() -> None:
    with torch.device("meta"):
        network = DenoisingUNet((3, 32, 32))
    down, up = ([layer for layer in way if isinstance(layer, Block)] for way in (network.down, network.up))
    assert [block.conv2.out_channels for block in down] == [128] * 2 + [256] * 6
    assert [block.conv2.out_channels for block in up] == [256] * 9 + [128] * 3
    for way, each in ((down, 2), (up, 3)):
        looks = [isinstance(block.attention, Attention) for block in way]
        assert sum(looks) == each  # only at 16x16
    assert [isinstance(block.attention, Attention) for block in network.middle] == [True, False]
    assert all(m.num_groups == 32 for m in network.modules() if isinstance(m, nn.GroupNorm))
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.1}


def test_initial_output_is_zero_and_blocks_are_identities() -> None:
    x, t = noisy()
    network = DenoisingUNet((3, 16, 16), base_channels=8, multipliers=(1, 2), attention=(8,))
    assert network(x, t).abs().max() == 0
    h = torch.randn(2, 8, 4, 4)
    assert torch.equal(network.down[0](h, torch.randn(2, 8)), h)
    # Glorot's bound of each of query, key and value
    for part in network.middle[0].attention.query_key_value.weight.chunk(3):
        assert 0.9 * (6 / 32) ** 0.5 < part.abs().max() <= (6 / 32) ** 0.5


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (192, 32), (96, 24), (32, 8), (8, 2), (7, 1), (3, 1)])
def test_group_norm_has_at_least_four_channels_per_group(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_upsample_is_nearest_neighbour_and_convolution() -> None:
    layer, x = Upsample(5, 3), torch.randn(2, 5, 4, 6, requires_grad=True)
    expected = layer.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    actual = layer(x, torch.empty(2, 0))
    torch.testing.assert_close(actual, expected)
    weigh = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad((actual * weigh).sum(), [x, *layer.parameters()]),
        torch.autograd.grad((expected * weigh).sum(), [x, *layer.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_adaptive_modulation_scales_and_shifts() -> None:
    block, x = Block(8, 8, modulation="adaptive").eval(), torch.randn(2, 8, 4, 4)
    scale, shift = torch.randn(2, 8), torch.randn(2, 8)
    h = block.norm2(block.conv1(F.silu(block.norm1(x))))
    h = h * (1 + scale[..., None, None]) + shift[..., None, None]
    torch.testing.assert_close(block(x, torch.cat([scale, shift], 1)), x + block.conv2(F.silu(h)))


def test_attention_heads_are_independent() -> None:
    attention, x = Attention(8, head_channels=4), torch.randn(1, 8, 3, 3)
    attention.out.weight.data = torch.eye(8)
    attention.out.bias.data.zero_()
    q, k, v = attention.query_key_value(attention.norm(x).flatten(2).mT)
    parts = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = (q[..., head] @ k[..., head].mT / 2).softmax(-1)
        parts.append(weights @ v[..., head])
    torch.testing.assert_close(attention(x), x + torch.cat(parts, -1).mT.reshape(1, 8, 3, 3))


# --- time, class, x0 --------------------------------------------------------------------------------------------------


def test_sinusoidal_embedding_matches_paper() -> None:
    embedding = Sinusoidal(8)(torch.tensor([0, 7, 999]))
    for t, row in zip((0, 7, 999), embedding, strict=True):
        phases = torch.tensor([t * 10000 ** (-i / 3) for i in range(4)], dtype=torch.float64)
        torch.testing.assert_close(row, torch.cat([phases.sin(), phases.cos()]).float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("embed", [Sinusoidal(32), RandomFourier(32)], ids=["sinusoidal", "fourier"])
def test_time_embeddings_are_distinct_and_smooth(embed: nn.Module) -> None:
    embed = embed.bfloat16()  # independent of casts of the network
    rows = embed(torch.arange(1000))
    assert rows.dtype == torch.float32
    distances = torch.cdist(rows, rows)
    assert (distances + 9 * torch.eye(1000)).min() > 1e-3
    assert distances.diagonal(1).mean() < distances.mean() / 2
    between = embed(torch.tensor([500.5]))
    assert torch.dist(between, rows[500]) < torch.dist(rows[501], rows[500])


def test_random_frequencies_are_saved_with_weights() -> None:
    first, second = (
        tiny(time_embedding="fourier"),
        DenoisingUNet((3, 16, 16), None, 8, (1, 2), 1, (8,), None, "fourier"),
    )
    second.load_state_dict(first.state_dict())
    x, t = noisy()
    assert torch.equal(first.eval()(x, t), second.eval()(x, t))


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_depends_on_time_and_class(variant: str) -> None:
    network, (x, _) = tiny(num_classes=3, **VARIANTS[variant]).eval(), noisy(1)
    at = [network(x, torch.tensor([t])) for t in (10, 11, 10.5)]
    assert not torch.equal(at[0], at[1])
    assert not torch.equal(at[0], at[2])
    t = torch.tensor([10])
    every = [network(x, t, label=torch.tensor([k])) for k in range(4)]
    assert all(not torch.equal(every[k], every[j]) for k in range(4) for j in range(k))
    torch.testing.assert_close(network(x, t), every[network.null_label])


def test_missing_self_conditioning_equals_zeros() -> None:
    network, (x, t) = tiny(self_conditioning=True).eval(), noisy()
    assert torch.equal(network(x, t), network(x, t, x0=torch.zeros_like(x)))
    assert not torch.equal(network(x, t), network(x, t, x0=x))


def test_output_depends_on_every_word() -> None:
    network, (x, t), text = tiny(text_dim=6).eval(), noisy(), torch.randn(2, 4, 6)
    assert network.text_dim == 6
    message = network(x, t, text=text)
    assert not torch.equal(message, network(x, t))
    changed = text.clone()
    changed[:, 3] = torch.randn(2, 6)
    assert not torch.equal(message, network(x, t, text=changed))
    mask = torch.tensor([[True, True, True, False]] * 2)
    torch.testing.assert_close(network(x, t, text=changed, text_mask=mask), network(x, t, text=text[:, :3]))


def test_maps_with_word_attention_attend_to_words_only() -> None:
    network, (x, t), text = tiny(text_dim=6, word_attention=(16,)).eval(), noisy(), torch.randn(2, 4, 6)
    with record_text_attention(network) as maps:
        network(x, t, text=text)
    sides = [part.shape[2] for part in maps]
    assert sides.count(16) == 3  # a block of the encoder, two of the decoder
    for part in maps:
        # Of the attention to words only, the rest is on one key of zeros; the others share it with 64 pixels.
        assert (part.sum(1).mean() > 0.5) == (part.shape[2] == 16)


@pytest.mark.parametrize("options", [{}, {"word_attention": (16,), "positions": True}])
def test_empty_text_mask_equals_no_text(options: dict[str, Any]) -> None:
    network, (x, t), text = tiny(text_dim=6, num_classes=2, **options).eval(), noisy(), torch.randn(2, 4, 6)
    mask = torch.tensor([[True] * 4, [False] * 4])
    mixed = network(x, t, text=text * mask[..., None], text_mask=mask)
    torch.testing.assert_close(mixed[:1], network(x[:1], t[:1], text=text[:1]))
    torch.testing.assert_close(mixed[1:], network(x[1:], t[1:]))


def test_text_only_adds_parameters() -> None:
    networks = []
    for text_dim in (None, 6):
        with torch.device("meta"):
            networks.append(
                DenoisingUNet((3, 16, 16), base_channels=8, multipliers=(1, 2), attention=(8,), text_dim=text_dim)
            )
    names, more = (set(network.state_dict()) for network in networks)
    assert {name.split(".")[0] for name in more - names} == {"read"}
    assert names < more


def test_unsupported_inputs_raise() -> None:
    network, (x, t) = tiny(), noisy()
    with pytest.raises(UsageError, match="num_classes"):
        network(x, t, label=torch.tensor([0, 1]))
    with pytest.raises(UsageError, match="text_dim"):
        network(x, t, text=torch.randn(2, 4, 6))
    with pytest.raises(UsageError, match="self_conditioning"):
        network(x, t, x0=x)


# --- execution --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_checkpointing_keeps_gradients_with_dropout(variant: str) -> None:
    gradients = []
    for gradient_checkpointing in (False, True):
        network = tiny(gradient_checkpointing=gradient_checkpointing, dropout=0.5, text_dim=6, **VARIANTS[variant])
        x, t = noisy()
        text = torch.randn(2, 4, 6)
        torch.manual_seed(1)
        network(x, t, text=text).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_trains_in_bfloat16(variant: str, precision: str) -> None:
    network, (x, t) = tiny(**VARIANTS[variant], num_classes=2, text_dim=6).eval(), noisy()
    conditions = {"label": torch.tensor([0, 2]), "text": torch.randn(2, 4, 6)}
    expected = network(x, t, **conditions)
    if precision == "bf16-true":
        network = network.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        actual = network(x, t, **conditions)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, atol=0.05 * expected.std().item(), rtol=0.05)
    actual.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_channels_last_keeps_gradients(variant: str) -> None:
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network = tiny(dropout=0.0, **VARIANTS[variant]).to(memory_format=memory_format)
        x, t = noisy()
        network(x.contiguous(memory_format=memory_format), t).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_network_compiles_as_one_graph() -> None:
    network, (x, t) = tiny(num_classes=2, self_conditioning=True, attention=(), text_dim=6).eval(), noisy()
    conditions = {"label": t % 3, "text": torch.randn(2, 4, 6), "x0": x}
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, **conditions), network(x, t, **conditions))


def test_grey_images_of_28_pixels_are_supported() -> None:
    network = tiny((1, 28, 28), multipliers=(1, 2, 2), attention=(14, 7))
    x, t = noisy(2, (1, 28, 28))
    assert network(x, t).shape == x.shape


def test_pixels_of_a_patch_are_channels() -> None:
    plain, patched = tiny((12, 8, 8)).eval(), tiny(patch_size=2).eval()
    patched.load_state_dict(plain.state_dict())
    x, t = noisy()
    expected = F.pixel_shuffle(plain(F.pixel_unshuffle(x, 2), t), 2)
    torch.testing.assert_close(patched(x, t), expected)


def test_patches_of_two_cost_a_quarter() -> None:
    flops = []
    for patch_size in (1, 2):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            DenoisingUNet((3, 32, 32), attention=(), patch_size=patch_size)(*noisy(1, (3, 32, 32)))
        flops.append(counter.get_total_flops())
    assert flops[1] / flops[0] == pytest.approx(0.25, rel=0.05)


# --- invalid arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": None}, "image_shape must be .*got None"),
        ({"image_shape": (3, 28, 28)}, "at most 3 values .* 24 x 24 or 32 x 32 pixels"),
        ({"image_shape": (3, 4, 40)}, "8 x 40 pixels can be halved 3 times"),
        ({"image_shape": (3, 33, 32)}, "at most 1 values .* 32 x 32 or 40 x 32 pixels"),
        ({"attention": (16, 5)}, "sides of maps .32, 16, 8, 4.*got 5"),
        ({"head_channels": 48}, "head_channels must divide .*got 48"),
        ({"head_channels": 0}, "head_channels must be .*got 0"),
        ({"base_channels": 9}, "base_channels must be .*got 9"),
        ({"multipliers": ()}, "multipliers must be"),
        ({"blocks": 0}, "blocks must be .*got 0"),
        ({"dropout": 1.0}, "dropout must be .*got 1.0"),
        ({"modulation": "film"}, "modulation must be .*got 'film'"),
        ({"resampling": "fir"}, "resampling must be .*got 'fir'"),
        ({"word_attention": (32,)}, "word_attention needs a text; set model.network.text_dim"),
        ({"word_attention": (5,), "text_dim": 4}, "word_attention must be sides of maps .*got 5"),
        ({"word_attention": (16,), "text_dim": 4}, "other sides than model.network.attention.*got 16"),
        ({"patch_size": 3}, "patch_size must be .* divide both sides of the images, 32 x 32, got 3"),
        ({"patch_size": 0}, "patch_size must be .*got 0"),
        (
            {"image_shape": (3, 24, 24), "patch_size": 2},
            "at most 3 values for images of 24 x 24 in patches of 2 x 2, .* 16 x 16 or 32 x 32 pixels can be halved 3",
        ),
        ({"time_embedding": "learned"}, "time_embedding must be .*got 'learned'"),
    ],
)
def test_invalid_arguments_raise(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        DenoisingUNet(**{"image_shape": (3, 32, 32), **options})
