"""EfficientUNet: layout of the paper, conditioning on the low resolution, and any image size."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.blocks import Attention, Block, Downsample, Upsample
from darkroom.lightning_modules.diffusion.efficient_unet import EfficientUNet
from tests.contracts.network import DenseNetworkContract


def tiny(image_shape: tuple[int, int, int] = (3, 16, 16), **options: Any) -> EfficientUNet:
    """Build a network of two levels with randomized zero layers, as after some training."""
    torch.manual_seed(0)
    network = EfficientUNet(image_shape, **{"channels": (8, 12), "blocks": (1, 2), "head_channels": 4, **options})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def given(*size: int, n: int = 2, text_dim: int | None = None) -> dict[str, Tensor]:
    """Return random inputs of the network."""
    height, width = size or (16, 16)
    conditions = {"x": torch.randn(n, 3, height, width), "t": torch.randint(1000, (n,))}
    conditions |= {"low": torch.randn(n, 3, height, width), "low_t": torch.randint(300, (n,))}
    return conditions if text_dim is None else conditions | {"text": torch.randn(n, 4, text_dim)}


class ImageOnly(nn.Module):
    """Wrap the network for the contract, which passes only images."""

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
        return ImageOnly(tiny(text_dim=6))


class TestEfficientUNetAtPixelResolution(TestEfficientUNet):
    num_classes = 6
    sizes = [(16, 16), (32, 32), (18, 34), (2, 2)]

    def build(self) -> nn.Module:
        options = {"halve_first": False, "self_attention": False, "attentions": 1, "modulation": "add"}
        return ImageOnly(tiny(text_dim=6, learned_variance=True, self_conditioning=True, **options))


# --- layout -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        pytest.param(637_074_435, {}, id="256"),  # 600 M
        pytest.param(456_600_579, {"self_attention": False, "attentions": 1}, id="1024"),  # 400 M
    ],
)
def test_parameter_counts_are_near_paper(parameters: int, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = EfficientUNet((3, 256, 256), text_dim=4096, **options)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_default_layout_matches_paper() -> None:
    with torch.device("meta"):
        network = EfficientUNet((3, 256, 256))
    assert network.step == 16
    widths = [128, 256, 512, 1024]
    for level, width, n in zip(network.down, widths, (2, 4, 8, 8), strict=True):
        assert [type(layer) for layer in level] == [Downsample] + n * [Block]  # downsampled before the blocks
        assert all(block.conv2.out_channels == width for block in level[1:])
    for level, width, n in zip(network.up, widths[::-1], (8, 8, 4, 2), strict=True):
        assert [type(layer) for layer in level] == n * [Block] + [Upsample]  # upsampled after the blocks
        assert [block.skip_channels for block in level[:-1]] == [0 if width == 1024 else width] + (n - 1) * [0]
    looking = {name: module for name, module in network.named_modules() if isinstance(module, Attention)}
    assert len(looking) == 16
    assert all(name.startswith(("down.3.", "up.0.")) for name in looking)
    assert {1024 // module.head_channels for module in looking.values()} == {8}  # heads


def test_initial_output_is_zero() -> None:
    network = EfficientUNet((3, 16, 16), text_dim=6, channels=(8, 12), blocks=(1, 2), head_channels=4)
    assert network(**given(text_dim=6)).abs().max() == 0


def test_skip_connections_are_scaled_by_root_of_half() -> None:
    network, seen = tiny().eval(), {}
    network.down[0][-1].register_forward_hook(lambda block, inputs, output: seen.update(handed=output))
    network.up[1][0].register_forward_hook(lambda block, inputs, output: seen.update(taken=inputs[-1]))
    network(**given())
    torch.testing.assert_close(seen["taken"], seen["handed"] / 2**0.5)


# --- conditions -------------------------------------------------------------------------------------------------------


def test_output_depends_on_every_condition() -> None:
    network, conditions = tiny().eval(), given()
    message = network(**conditions)
    for name, other in (
        ("low", conditions["low"] + 0.1),
        ("low_t", conditions["low_t"] + 0.5),
        ("t", conditions["t"] + 1),
        ("x", conditions["x"] + 0.1),
    ):
        assert not torch.equal(network(**{**conditions, name: other}), message), name
    swapped = network(**{**conditions, "t": conditions["low_t"], "low_t": conditions["t"]})
    assert not torch.allclose(swapped, message)  # the two times are not interchangeable


@pytest.mark.parametrize("self_attention", [True, False])
def test_empty_text_mask_equals_no_text(self_attention: bool) -> None:
    network, conditions = tiny(text_dim=6, self_attention=self_attention).eval(), given()
    text, mask = torch.randn(2, 4, 6), torch.tensor([[True, True, True, False], [False] * 4])
    message = network(**conditions, text=text, text_mask=mask)
    one, other = ({name: value[row : row + 1] for name, value in conditions.items()} for row in (0, 1))
    torch.testing.assert_close(message[:1], network(**one, text=text[:1, :3]))
    torch.testing.assert_close(message[1:], network(**other))
    assert not torch.allclose(message[:1], network(**one))


def test_missing_self_conditioning_equals_zeros() -> None:
    network, conditions = tiny(self_conditioning=True).eval(), given()
    assert torch.equal(network(**conditions), network(**conditions, x0=torch.zeros_like(conditions["x"])))
    assert not torch.equal(network(**conditions), network(**conditions, x0=conditions["x"]))


def test_crop_matches_full_image_away_from_border() -> None:
    """Check without attention and without group norms, which depend on the whole map."""
    network, conditions = tiny(self_attention=False).eval(), given(64, 64, n=1)
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    whole = network(**conditions)
    cropped = {name: value[..., :60, :60] if value.dim() == 4 else value for name, value in conditions.items()}
    torch.testing.assert_close(network(**cropped)[..., :8, :8], whole[..., :8, :8], rtol=1e-4, atol=1e-4)


def test_unsupported_inputs_and_sizes_raise() -> None:
    network, conditions = tiny(), given()
    with pytest.raises(UsageError, match="EfficientUNet takes no text.* text_dim"):
        network(**conditions, text=torch.randn(2, 4, 6))
    with pytest.raises(UsageError, match="self_conditioning"):
        network(**conditions, x0=conditions["x"])
    with pytest.raises(UsageError, match="18 x 16 do not .* multiples of 4, such as 16 x 16 or 20 x 16"):
        network(**given(18, 16))


# --- execution --------------------------------------------------------------------------------------------------------


def test_gradient_checkpointing_keeps_gradients() -> None:
    gradients = []
    for gradient_checkpointing in (False, True):
        network = tiny(text_dim=6, gradient_checkpointing=gradient_checkpointing, dropout=0.5)
        conditions = given(text_dim=6)
        torch.manual_seed(1)
        network(**conditions).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("self_attention", [True, False])
def test_trains_in_bfloat16(self_attention: bool, precision: str) -> None:
    network, conditions = tiny(text_dim=6, self_attention=self_attention).eval(), given(text_dim=6)
    expected = network(**conditions)
    if precision == "bf16-true":
        network = network.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        actual = network(**conditions)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, atol=0.1 * expected.std().item(), rtol=0.05)
    actual.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# --- invalid arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": None}, "image_shape must be .*got None"),
        ({"image_shape": (3, 40, 32)}, "40 x 32 do not .* multiples of 16, such as 32 x 32 or 48 x 32"),
        ({"channels": (32, 64)}, r"blocks must be at least 1 for each of the 2 levels .*got \(2, 4, 8, 8\)"),
        ({"channels": ()}, "channels must be"),
        ({"channels": (9, 16, 16, 16)}, "channels must be .*the first one even"),
        ({"blocks": (1, 1, 0, 1)}, "blocks must be"),
        ({"attentions": 0}, "attentions must be .*got 0"),
        ({"head_channels": 48}, "head_channels must divide .*got 48"),
        ({"head_channels": 0}, "head_channels must be .*got 0"),
        ({"dropout": 1.0}, "dropout must be .*got 1.0"),
        ({"modulation": "film"}, "modulation must be .*got 'film'"),
    ],
)
def test_invalid_arguments_raise(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        EfficientUNet(**{"image_shape": (3, 32, 32), **options})
