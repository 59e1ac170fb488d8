"""Mirror padding and coordinates of feature maps."""

import pytest
import torch
from torch.nn import functional as F

from darkroom.lightning_modules.layers.backbones import build_features
from darkroom.lightning_modules.segmentation.geometry import coordinate_map, mirror_pad, mirror_to_grid


def test_mirror_pad_matches_torch_reflect() -> None:
    x = torch.randn(2, 3, 7, 9)
    torch.testing.assert_close(mirror_pad(x, 3, 2, 6, 8), F.pad(x, (6, 8, 3, 2), mode="reflect"))


def test_mirror_pad_repeats_beyond_image_size() -> None:
    x = torch.tensor([[[[1, 2, 3]]]])
    assert mirror_pad(x, 0, 0, 5, 4).flatten().tolist() == [2, 1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3]
    assert mirror_pad(x, 2, 2, 0, 0).shape == (1, 1, 5, 3)


def test_negative_padding_crops() -> None:
    assert mirror_pad(torch.arange(6).view(1, 1, 6), 0, 0, -1, -2).flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize(("side", "extended"), [(1, 33), (32, 33), (33, 33), (34, 65), (64, 65), (66, 97)])
def test_mirrored_image_ends_on_a_cell_of_every_stride(side: int, extended: int) -> None:
    x = torch.randn(1, 2, side, 33)
    grid = mirror_to_grid(x)
    assert grid.shape == (1, 2, extended, 33)
    assert torch.equal(grid[..., :side, :], x)


@pytest.mark.parametrize(("backbone", "stride", "shift"), [("vgg16", 32, 15.5), ("alexnet", 32, 31.0)])
def test_coordinates_match_centre_of_receptive_field(backbone: str, stride: int, shift: float) -> None:
    assert coordinate_map(build_features(backbone)) == (stride, shift)
    network = build_features(backbone, 1, 0.02).double()
    for parameter in network.parameters():  # positive weights: the gradient of a cell covers its whole receptive field
        torch.nn.init.constant_(parameter, 0.1)
    image = torch.ones(1, 1, 640, 640, dtype=torch.double, requires_grad=True)
    network = torch.nn.Sequential(
        *(torch.nn.AvgPool2d(m.kernel_size, m.stride) if isinstance(m, torch.nn.MaxPool2d) else m for m in network)
    )
    network(image)[0, :, 9, 9].sum().backward()
    profile = image.grad[0, 0].sum(0)
    centre = (profile * torch.arange(640)).sum() / profile.sum()
    assert centre.item() == pytest.approx(9 * stride + shift)
