"""The hidden layers of a region equal torchvision's, whatever computes them."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from darkroom.lightning_modules.detection.torchvision import region_head
from darkroom.lightning_modules.detection.torchvision.cpu_paths import without_cpu_paths
from darkroom.lightning_modules.detection.torchvision.region_head import RegionHead

Heads = tuple[RegionHead, TwoMLPHead]


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> Heads:
    """Return both heads with the same weights; ours convolves from three regions on, on every processor."""
    monkeypatch.setattr(region_head, "convolutions_alone_use_avx512", lambda: True)
    monkeypatch.setattr(region_head, "_FEWEST", 3)
    torch.manual_seed(0)
    ours, published = RegionHead(4 * 49, 16), TwoMLPHead(4 * 49, 16)
    published.load_state_dict(ours.state_dict())
    return ours, published


def operations(head: torch.nn.Module, maps: Tensor) -> dict[object, int]:
    """Count the operations of a pass, by their kind."""
    with FlopCounterMode(display=False) as counter:
        head(maps)
    return dict(counter.get_flop_counts()["Global"])


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_features_and_gradients_are_torchvisions(heads: Heads, count: int, layout: torch.memory_format) -> None:
    maps = torch.randn(count, 4, 7, 7).contiguous(memory_format=layout).requires_grad_()
    copied = maps.detach().clone().requires_grad_()
    features, expected = heads[0](maps), heads[1](copied)
    torch.testing.assert_close(features, expected)
    features.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(maps.grad, copied.grad)
    for ours, theirs in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(("count", "convolves"), [(2, False), (3, True)])
def test_many_regions_are_convolved_by_as_many_operations(heads: Heads, count: int, convolves: bool) -> None:
    maps = torch.randn(count, 4, 7, 7)
    counts = [operations(head, maps) for head in heads]
    assert (torch.ops.aten.convolution in counts[0]) == convolves
    assert sum(counts[0].values()) == sum(counts[1].values())


def test_mixed_precision_takes_the_matrix_product(heads: Heads) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.ops.aten.convolution not in operations(heads[0], torch.randn(3, 4, 7, 7))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_take_the_matrix_product(heads: Heads, dtype: torch.dtype) -> None:
    maps = torch.randn(3, 4, 7, 7, dtype=dtype)
    assert torch.ops.aten.convolution not in operations(heads[0].to(dtype), maps)
    torch.testing.assert_close(heads[0](maps), heads[1].to(dtype)(maps))


def test_exported_graph_has_the_matrix_product_for_any_number_of_regions(heads: Heads) -> None:
    regions = torch.export.Dim("regions", min=2, max=1000)
    program = torch.export.export(heads[0], (torch.randn(5, 4, 7, 7),), dynamic_shapes=({0: regions},))
    assert not [node for node in program.graph.nodes if "conv" in str(node.target)]
    maps = torch.randn(9, 4, 7, 7)
    torch.testing.assert_close(program.module()(maps), heads[1](maps))


def test_plans_count_the_matrix_product_of_a_gpu(heads: Heads) -> None:
    with without_cpu_paths():
        assert torch.ops.aten.convolution not in operations(heads[0], torch.randn(3, 4, 7, 7))


def test_processor_of_intel_takes_the_matrix_product(monkeypatch: pytest.MonkeyPatch) -> None:
    region_head.convolutions_alone_use_avx512.cache_clear()
    monkeypatch.setattr(region_head.Path, "read_text", lambda *_, **__: "vendor_id : GenuineIntel")
    assert not region_head.convolutions_alone_use_avx512()
    region_head.convolutions_alone_use_avx512.cache_clear()
