"""Contracting path of U-Net: sizes of its maps, with same and valid padding, and images of one pixel."""

import pytest
import torch
from torch import nn

from darkroom.lightning_modules.layers.contracting_path import ContractingPath, DoubleConv, Down


@pytest.mark.parametrize(
    ("padding", "size", "sides"),
    [
        ("same", (32, 48), [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]),
        ("same", (33, 47), [(33, 47), (16, 23), (8, 11), (4, 5), (2, 2)]),
        ("same", (1, 1), [(1, 1)] * 5),
        ("same", (1, 40), [(1, 40), (1, 20), (1, 10), (1, 5), (1, 2)]),
        ("valid", (572, 188), [(568, 184), (280, 88), (136, 40), (64, 16), (28, 4)]),  # 572: the paper's, figure 1
    ],
)
def test_maps_have_sides_of_their_level(padding: str, size: tuple[int, int], sides: list[tuple[int, int]]) -> None:
    path = ContractingPath(in_channels=2, base_channels=1, padding=padding).eval()
    with torch.no_grad():
        maps = path.maps(torch.randn(1, 2, *size))
    assert [tuple(map_.shape[1:]) for map_ in maps] == [
        (channels, *side) for channels, side in zip((1, 2, 4, 8, 16), sides, strict=True)
    ]
    assert all(map_.isfinite().all() for map_ in maps)


def test_output_is_the_last_map() -> None:
    path, image = ContractingPath(base_channels=2, bottom_channels=5).eval(), torch.randn(1, 3, 32, 32)
    assert torch.equal(path(image), path.maps(image)[-1])
    assert path(image).shape == (1, 5, 2, 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1)])
def test_side_of_one_pixel_is_halved_as_if_it_were_repeated(size: tuple[int, int]) -> None:
    step = Down(2, 3, padding="same", batch_norm=True).eval()
    x = torch.randn(1, 2, *size)
    repeated = x.expand(-1, -1, *(max(2, side) for side in size))
    assert torch.equal(step(x), step(repeated))


def test_convolutions_without_batch_norm_have_biases() -> None:
    block = DoubleConv(3, 4, batch_norm=False)
    assert [type(layer) for layer in block.double_conv] == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU]
    assert all(layer.bias.abs().max() == 0 for layer in block.double_conv if isinstance(layer, nn.Conv2d))
    assert all(layer.bias is None for layer in DoubleConv(3, 4).double_conv if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize(("padding", "lost"), [("same", 0), ("valid", 4)])
def test_valid_block_loses_two_pixels_at_each_border(padding: str, lost: int) -> None:
    block = DoubleConv(3, 4, mid_channels=5, padding=padding)
    assert block(torch.randn(2, 3, 9, 11)).shape == (2, 4, 9 - lost, 11 - lost)
    assert block.double_conv[0].out_channels == 5
