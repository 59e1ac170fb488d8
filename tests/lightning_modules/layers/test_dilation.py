"""Dilated bodies: finer maps that contain the cells of the original ones."""

import copy
from typing import get_args

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.body import Body, FeatureBackbone, build_backbone
from darkroom.lightning_modules.layers.dilation import dilate_body


def randomize_norms(body: Body) -> Body:
    """Randomize the shifts of the batch norms: with zeros, cells outside of the map would go unnoticed."""
    for layer in body.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias, std=0.5)
            nn.init.uniform_(layer.running_var, 0.1, 0.5)
    return body


@pytest.mark.parametrize("name", get_args(FeatureBackbone))
@pytest.mark.parametrize("size", [(64, 96), (65, 33), (50, 77)])
def test_cells_of_strided_map_are_in_dilated_map(name: str, size: tuple[int, int]) -> None:
    strided = randomize_norms(build_backbone(name, (3, 4, 5), width=0.1)).eval().double()
    dilated = dilate_body(copy.deepcopy(strided))
    image = torch.randn(1, 3, *size, dtype=torch.double)
    maps = dilated(image)
    for level, (index, expected) in zip(strided.levels, strided(image).items(), strict=True):
        step = 2 ** (level - 3)
        assert maps[index].shape[-2:] == tuple(-(-side // 8) for side in size)
        assert expected.std() > 0
        torch.testing.assert_close(maps[index][..., ::step, ::step], expected)


def test_layers_match_dilated_resnet_of_torchvision() -> None:
    with torch.device("meta"):
        theirs = resnet50(replace_stride_with_dilation=[False, True, True])
        ours = dilate_body(build_backbone("resnet50"))
    for name, layer in ours.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert repr(layer) == repr(theirs.get_submodule(name))


def test_dilation_begins_after_chosen_stride() -> None:
    body = dilate_body(build_backbone("mobilenet_v2", (3, 4, 5), width=0.05), stride=16).train()
    assert [map_.shape[-1] for map_ in body(torch.zeros(2, 3, 64, 64)).values()] == [8, 4, 4]
    assert body.training


def test_late_pooling_is_refused() -> None:
    with pytest.raises(UsageError, match="no pooling after stride 8 to be dilated, got features.23, a MaxPool2d"):
        dilate_body(build_backbone("vgg16", (5,), width=0.02))
