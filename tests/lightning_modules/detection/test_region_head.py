"""The hidden layers of a region equal torchvision's, whatever computes them."""

from copy import deepcopy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from darkroom.lightning_modules.detection.torchvision.region_head import RegionHead


@pytest.fixture
def heads():
    torch.manual_seed(0)
    ours, published = RegionHead(4 * 49, 16), TwoMLPHead(4 * 49, 16)
    published.load_state_dict(ours.state_dict())
    return ours, published


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_features_and_gradients_are_torchvisions(heads, count, layout):
    maps = torch.randn(count, 4, 7, 7).contiguous(memory_format=layout).requires_grad_()
    copied = maps.detach().clone().requires_grad_()
    features, expected = heads[0](maps), heads[1](copied)
    torch.testing.assert_close(features, expected)
    features.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(maps.grad, copied.grad)
    for (name, ours), theirs in zip(heads[0].named_parameters(), heads[1].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_float32_on_a_cpu_is_a_convolution_and_counts_the_same_operations(heads):
    maps, counts = torch.randn(3, 4, 7, 7), []
    for head in heads:
        with FlopCounterMode(display=False) as counter:
            head(maps)
        counts.append(counter.get_flop_counts()["Global"])
    assert torch.ops.aten.convolution in counts[0]
    assert sum(counts[0].values()) == sum(counts[1].values())


def test_mixed_precision_takes_the_matrix_product(heads):
    maps = torch.randn(3, 4, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        features, expected = (head(maps) for head in heads)
    assert torch.equal(features, expected)


def test_head_works_in_every_dtype(heads):
    head = deepcopy(heads[0]).double()
    torch.testing.assert_close(head(torch.ones(2, 4, 7, 7).double()).float(), heads[0](torch.ones(2, 4, 7, 7)))
