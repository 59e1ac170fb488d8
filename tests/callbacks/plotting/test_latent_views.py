"""Views of a latent space: decoded codes and positions of their images."""

import pytest
import torch
from torch import Tensor

from darkroom.callbacks.plotting.latent_views import (
    _edge_labels,
    activity,
    encodings,
    manifold,
    manifold_of_classes,
    principal_components,
    traversals,
)

PRIOR = torch.randn(10_000, 4, generator=torch.Generator().manual_seed(0))
CODE = torch.tensor([0.1, 0.2, 0.3, 0.4])
IMAGE = torch.full((3, 48, 48), 7, dtype=torch.uint8)


class Recorder:
    """Decoder that returns one blank image per code and records codes and labels."""

    def __call__(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        self.codes, self.labels = codes, labels
        grey = torch.arange(len(codes)).to(torch.uint8).view(-1, 1, 1, 1)
        return grey.expand(-1, 3, 48, 48)


def test_manifold_decodes_quantiles_of_prior() -> None:
    decode = Recorder()
    sheet = manifold(decode, PRIOR, CODE, [2, 0], 5).raster()
    quantiles = torch.special.ndtri((torch.arange(5) + 0.5) / 5)
    codes = decode.codes.view(5, 5, 4)
    assert codes[0, :, 2].tolist() == pytest.approx(quantiles.tolist(), abs=0.05)
    assert codes[:, 0, 0].tolist() == pytest.approx(quantiles.tolist(), abs=0.05)
    assert (codes[..., 1] == CODE[1]).all()  # the other dimensions are those of the image
    assert (codes[..., 3] == CODE[3]).all()
    left = int((sheet[0, -11] < 255).nonzero()[0])  # right of the axis' values
    shown = sheet[0, -10 - 5 * 48 : -10 : 48, left : left + 5 * 48 : 48]
    assert torch.equal(shown, torch.arange(25).view(5, 5).flip(0).to(torch.uint8))


def test_edge_labels_are_first_middle_and_last_value() -> None:
    assert _edge_labels(torch.tensor([-1.86, -0.7, -0.04, 0.7, 1.86])) == ["-1.9", "", "0", "", "+1.9"]
    assert _edge_labels(torch.tensor([0.02])) == ["0"]


def test_manifold_of_one_dimension_is_a_row() -> None:
    decode = Recorder()
    manifold(decode, PRIOR[:, :1], CODE[:1], [0], 5)
    assert decode.codes.shape == (5, 1)


def test_manifold_uses_quantiles_of_uniform_prior() -> None:
    decode = Recorder()
    manifold(decode, torch.rand(10_000, 2), CODE[:2], [0, 1], 4)
    assert decode.codes[:4, 0].tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.02)


def test_manifold_of_classes_decodes_same_codes_per_class() -> None:
    decode = Recorder()
    manifold_of_classes(decode, PRIOR, CODE, 1, 6, ("a", "b", "c"))
    assert decode.labels.view(3, 6).tolist() == [[0] * 6, [1] * 6, [2] * 6]
    assert torch.equal(decode.codes[:6], decode.codes[12:])


def test_traversals_span_three_standard_deviations() -> None:
    decode = Recorder()
    traversals(decode, 2 * PRIOR + 1, CODE, torch.tensor(3), [3, 1], torch.ones(4), IMAGE)
    codes = decode.codes.view(2, 13, 4)
    assert codes[0, :, 3].tolist() == pytest.approx((1 + 2 * torch.arange(-3, 3.5, 0.5)).tolist(), abs=0.1)
    assert torch.equal(codes[0, :, :3], CODE[:3].expand(13, 3))
    assert torch.equal(codes[1, :, 2:], CODE[2:].expand(13, 2))
    assert decode.labels.tolist() == [3] * 26


def test_traversals_stay_within_bounded_prior() -> None:
    decode = Recorder()
    traversals(decode, 2 * torch.rand(1000, 4) - 1, CODE, None, [0], torch.ones(4), IMAGE)
    assert decode.codes.abs().max() <= 1


def test_principal_components_span_largest_variance() -> None:
    hidden = torch.randn(500, 2) * torch.tensor([5.0, 2.0])
    frame = torch.linalg.qr(torch.randn(6, 6)).Q
    found, part = principal_components(hidden @ frame[:2] + 0.01 * torch.randn(500, 6) + 7)
    assert part > 0.999
    centred = hidden - hidden.mean(0)
    assert torch.allclose(found @ found.T, centred @ centred.T, atol=3)
    assert found.var(0)[0] > found.var(0)[1]


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_encodings_plots_any_dimension_and_keeps_global_rng(dimensions: int) -> None:
    codes, state = torch.randn(40, dimensions), torch.get_rng_state()
    encodings(codes, torch.arange(40) % 3, ("a", "b", "c")).raster()
    encodings(torch.zeros(3, dimensions), None, ()).raster()
    assert torch.equal(torch.get_rng_state(), state)


def test_activity_is_variance_of_encodings() -> None:
    assert activity(torch.tensor([[0.0, 1.0], [0.0, 3.0]])).tolist() == [0, 1]
