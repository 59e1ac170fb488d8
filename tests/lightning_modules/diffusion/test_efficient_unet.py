"""EfficientUNet: laid out as the paper says, told of the low resolution, and of any size."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.blocks import Attention, Block, Downsample, Upsample
from darkroom.lightning_modules.diffusion.efficient_unet import EfficientUNet
from tests.contracts.network import DenseNetworkContract


def tiny(image_shape: tuple[int, int, int] = (3, 16, 16), **options: Any) -> EfficientUNet:
    """A network of two levels, whose zero layers are drawn, too: as it would be after some training."""
    torch.manual_seed(0)
    network = EfficientUNet(image_shape, **{"channels": (8, 12), "blocks": (1, 2), "head_channels": 4, **options})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def given(*size: int, n: int = 2, text_dim: int | None = None) -> dict[str, Tensor]:
    """What the network is called with."""
    height, width = size or (16, 16)
    told = {"x": torch.randn(n, 3, height, width), "t": torch.randint(1000, (n,))}
    told |= {"low": torch.randn(n, 3, height, width), "low_t": torch.randint(300, (n,))}
    return told if text_dim is None else told | {"text": torch.randn(n, 4, text_dim)}


class OfOnePicture(nn.Module):
    """The network as the contract calls it: with pictures alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        t = torch.full((len(x),), 300)
        return self.network(x, t, low=x.flip(1), low_t=t / 2, text=torch.ones(len(x), 3, 6))


class TestEfficientUNet(DenseNetworkContract):
    num_classes = 3  # channels in, channels out
    sizes = [(16, 16), (32, 32), (16, 40), (4, 4)]

    def build(self) -> nn.Module:
        return OfOnePicture(tiny(text_dim=6))


class TestEfficientUNetThatSeesSinglePixels(TestEfficientUNet):
    num_classes = 6
    sizes = [(16, 16), (32, 32), (18, 34), (2, 2)]

    def build(self) -> nn.Module:
        options = {"halve_first": False, "self_attention": False, "attentions": 1, "modulation": "add"}
        return OfOnePicture(tiny(text_dim=6, learned_variance=True, self_conditioning=True, **options))


# --- the paper's ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        pytest.param(637_074_435, {}, id="256"),  # 600 M
        pytest.param(456_600_579, {"self_attention": False, "attentions": 1}, id="1024"),  # 400 M
    ],
)
def test_about_as_many_parameters_as_the_authors_networks(parameters: int, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = EfficientUNet((3, 256, 256), text_dim=4096, **options)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_the_default_is_laid_out_as_the_paper_says() -> None:
    with torch.device("meta"):
        network = EfficientUNet((3, 256, 256))
    assert network.step == 16
    widths = [128, 256, 512, 1024]
    for level, width, n in zip(network.down, widths, (2, 4, 8, 8), strict=True):
        assert [type(layer) for layer in level] == [Downsample] + n * [Block]  # halved before the blocks
        assert all(block.conv2.out_channels == width for block in level[1:])
    for level, width, n in zip(network.up, widths[::-1], (8, 8, 4, 2), strict=True):
        assert [type(layer) for layer in level] == n * [Block] + [Upsample]  # doubled after them
        assert [block.skip_channels for block in level[:-1]] == [0 if width == 1024 else width] + (n - 1) * [0]
    looking = [name for name, module in network.named_modules() if isinstance(module, Attention)]
    assert len(looking) == 16
    assert all(name.startswith(("down.3.", "up.0.")) for name in looking)


def test_it_begins_as_zero() -> None:
    network = EfficientUNet((3, 16, 16), text_dim=6, channels=(8, 12), blocks=(1, 2), head_channels=4)
    assert network(**given(text_dim=6)).abs().max() == 0


def test_what_a_level_hands_over_is_scaled_by_the_root_of_a_half() -> None:
    network, seen = tiny().eval(), {}
    network.down[0][-1].register_forward_hook(lambda block, inputs, output: seen.update(handed=output))
    network.up[1][0].register_forward_hook(lambda block, inputs, output: seen.update(taken=inputs[-1]))
    network(**given())
    torch.testing.assert_close(seen["taken"], seen["handed"] / 2**0.5)


# --- what it is told --------------------------------------------------------------------------------------------------


def test_low_its_noise_and_the_time_matter() -> None:
    network, told = tiny().eval(), given()
    said = network(**told)
    for name, other in (
        ("low", told["low"] + 0.1),
        ("low_t", told["low_t"] + 0.5),
        ("t", told["t"] + 1),
        ("x", told["x"] + 0.1),
    ):
        assert not torch.equal(network(**{**told, name: other}), said), name
    swapped = network(**{**told, "t": told["low_t"], "low_t": told["t"]})
    assert not torch.allclose(swapped, said)  # the two times are told apart


@pytest.mark.parametrize("self_attention", [True, False])
def test_no_text_is_a_mask_without_tokens_for_each_row_alone(self_attention: bool) -> None:
    network, told = tiny(text_dim=6, self_attention=self_attention).eval(), given()
    text, mask = torch.randn(2, 4, 6), torch.tensor([[True, True, True, False], [False] * 4])
    said = network(**told, text=text, text_mask=mask)
    one, other = ({name: value[row : row + 1] for name, value in told.items()} for row in (0, 1))
    torch.testing.assert_close(said[:1], network(**one, text=text[:1, :3]))
    torch.testing.assert_close(said[1:], network(**other))
    assert not torch.allclose(said[:1], network(**one))


def test_self_conditioning_takes_zeros_for_no_prediction() -> None:
    network, told = tiny(self_conditioning=True).eval(), given()
    assert torch.equal(network(**told), network(**told, x0=torch.zeros_like(told["x"])))
    assert not torch.equal(network(**told), network(**told, x0=told["x"]))


def test_a_crop_is_drawn_as_within_the_picture_far_from_its_border() -> None:
    """Without attention, and where no group norm looks at the whole map."""
    network, told = tiny(self_attention=False).eval(), given(64, 64, n=1)
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    whole = network(**told)
    cropped = {name: value[..., :60, :60] if value.dim() == 4 else value for name, value in told.items()}
    torch.testing.assert_close(network(**cropped)[..., :8, :8], whole[..., :8, :8], rtol=1e-4, atol=1e-4)


def test_what_it_was_not_built_for_is_refused() -> None:
    network, told = tiny(), given()
    with pytest.raises(UsageError, match="EfficientUNet takes no text.* text_dim"):
        network(**told, text=torch.randn(2, 4, 6))
    with pytest.raises(UsageError, match="self_conditioning"):
        network(**told, x0=told["x"])
    with pytest.raises(UsageError, match="18 x 16, .* multiples of 4, such as 16 x 16 or 20 x 16"):
        network(**given(18, 16))


# --- how it is run ----------------------------------------------------------------------------------------------------


def test_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for gradient_checkpointing in (False, True):
        network = tiny(text_dim=6, gradient_checkpointing=gradient_checkpointing, dropout=0.5)
        told = given(text_dim=6)
        torch.manual_seed(1)
        network(**told).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("self_attention", [True, False])
def test_it_runs_and_learns_in_bfloat16(self_attention: bool, precision: str) -> None:
    network, told = tiny(text_dim=6, self_attention=self_attention).eval(), given(text_dim=6)
    expected = network(**told)
    if precision == "bf16-true":
        network = network.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        actual = network(**told)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, atol=0.1 * expected.std().item(), rtol=0.05)
    actual.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": None}, "image_shape is None"),
        ({"image_shape": (3, 40, 32)}, "40 x 32, .* multiples of 16, such as 32 x 32 or 48 x 32"),
        ({"channels": (32, 64)}, r"blocks must be at least 1 for each of the 2 levels .*got \(2, 4, 8, 8\)"),
        ({"channels": ()}, "channels must be"),
        ({"channels": (9, 16, 16, 16)}, "channels must be .*the first one even"),
        ({"blocks": (1, 1, 0, 1)}, "blocks must be"),
        ({"attentions": 0}, "attentions must be .*got 0"),
        ({"head_channels": 48}, "head_channels is 48"),
        ({"head_channels": 0}, "head_channels must be .*got 0"),
        ({"dropout": 1.0}, "dropout must be .*got 1.0"),
        ({"modulation": "film"}, "modulation must be .*got 'film'"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        EfficientUNet(**{"image_shape": (3, 32, 32), **options})
