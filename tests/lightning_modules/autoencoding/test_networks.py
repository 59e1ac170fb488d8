"""Encoders and decoders: any image size, and parameter counts of the reference architectures."""

import pytest
import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from darkroom.lightning_modules.autoencoding.networks import encoder_and_decoder

SHAPES = [(1, 28, 28), (3, 33, 47), (4, 17, 1), (2, 1, 1), (3, 16, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("architecture", ["conv", "mlp"])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_decoder_restores_any_image_size(
    shape: tuple[int, int, int], architecture: str, num_classes: int | None
) -> None:
    encoder, decoder = encoder_and_decoder(shape, 5, 7, architecture, (4, 6, 8), (9, 8), num_classes, None, None)
    labels = () if num_classes is None else (torch.tensor([0, 2]),)
    assert encoder(torch.randn(2, *shape), *labels).shape == (2, 7)
    assert decoder(torch.randn(2, 5), *labels).shape == (2, *shape)


def test_conv_parameter_count_matches_reference_vae() -> None:
    with torch.device("meta"):
        channels = (32, 64, 128, 256, 512)
        encoder = ConvEncoder((3, 64, 64), 2 * 128, channels)
        decoder = ConvDecoder((3, 64, 64), 128, channels)
        assert encoder.stages(torch.empty(2, 3, 64, 64)).shape == (2, 512, 2, 2)
        assert decoder(torch.empty(2, 128)).shape == (2, 3, 64, 64)
    assert sum(p.numel() for m in (encoder, decoder) for p in m.parameters()) == 3_937_635


def test_mlp_parameter_counts_match_papers() -> None:
    with torch.device("meta"):
        one = MLPEncoder((1, 28, 28), 2 * 20), MLPDecoder((1, 28, 28), 20)  # Kingma & Welling: 500 hidden units
        two = MLPEncoder((1, 28, 28), 2 * 50, (200, 200)), MLPDecoder((1, 28, 28), 50, (200, 200))  # Burda et al.
    counts = [sum(p.numel() for m in pair for p in m.parameters()) for pair in (one, two)]
    assert counts[0] == (785 * 500 + 501 * 40) + (21 * 500 + 501 * 784)
    assert counts[1] == (785 * 200 + 201 * 200 + 201 * 100) + (51 * 200 + 201 * 200 + 201 * 784)
    assert [type(layer) for layer in two[0].layers] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]


def test_mlp_decoder_mirrors_encoder() -> None:
    decoder = MLPDecoder((1, 2, 2), 3, (7, 5))
    assert [layer.out_features for layer in decoder.layers if isinstance(layer, nn.Linear)] == [5, 7, 4]


@pytest.mark.parametrize("architecture", ["conv", "mlp"])
def test_networks_depend_on_label(architecture: str) -> None:
    pair = encoder_and_decoder((1, 8, 8), 3, 3, architecture, (4,), (4,), 2, None, None)
    for network, x in zip(pair, (torch.randn(1, 1, 8, 8), torch.randn(1, 3)), strict=True):
        network.eval()
        assert not torch.allclose(network(x, torch.tensor([0])), network(x, torch.tensor([1])))
        with pytest.raises(UsageError, match="labels are missing"):
            network(x)


class WrongShape(nn.Module):
    """Network with the output shape (B, 9) for any input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 9)


def test_networks_of_wrong_shape_raise_and_name_key() -> None:
    build = [(3, 8, 8), 2, 4, "conv", (4,), (4,), None]
    with pytest.raises(UsageError, match=r"model.encoder \(WrongShape\) maps \(2, 3, 8, 8\) to \(2, 9\).*\(2, 4\)"):
        encoder_and_decoder(*build, WrongShape(), None)
    with pytest.raises(UsageError, match=r"model.decoder \(WrongShape\) maps \(2, 2\) to \(2, 9\).*\(2, 3, 8, 8\)"):
        encoder_and_decoder(*build, None, WrongShape())
    with pytest.raises(UsageError, match=r"model.encoder \(Conv2d\) fails on \(2, 3, 8, 8\)"):
        encoder_and_decoder(*build, nn.Conv2d(1, 4, 3), None)
    with pytest.raises(UsageError, match="model.encoder.*labels"):
        encoder_and_decoder(*build[:-1], 5, WrongShape(), None)
    with pytest.raises(UsageError, match="model.latent_dim must be at least 1, got 0"):
        encoder_and_decoder((3, 8, 8), 0, 0, *build[3:], None, None)


@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.Tanh()], ids=str)
def test_decoder_with_final_sigmoid_or_tanh_raises(last: nn.Module) -> None:
    build = [(1, 2, 2), 3, 3, "conv", (4,), (4,), None, None]
    layers = [nn.Linear(3, 4), last, nn.Unflatten(1, (1, 2, 2))]
    with pytest.raises(UsageError, match="model.decoder.*ends in a sigmoid or tanh.*likelihood"):
        encoder_and_decoder(*build, nn.Sequential(*layers))
    encoder_and_decoder(*build, nn.Sequential(layers[0], last, nn.Linear(4, 4), layers[2]))  # allowed in hidden layers


def test_check_of_network_does_not_change_it() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(), nn.Linear(12, 4))
    network[1].eval()
    encoder_and_decoder((3, 2, 2), 2, 4, "conv", (4,), (4,), None, network, None)
    assert [layer.training for layer in network] == [True, False, True, True]
    assert network[1].num_batches_tracked == 0
