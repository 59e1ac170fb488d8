"""RoIAlign as matrix products: equal to torchvision's in values and gradients."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import initLevelMapper

from darkroom.lightning_modules.detection.torchvision import region_align
from darkroom.lightning_modules.detection.torchvision.region_align import RegionAlign, align_by_products


def random_regions(count: int, side: float) -> torch.Tensor:
    """Return boxes of any size, some of them beyond the image, some without area."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * 1.4 * side - 0.2 * side
    sides = torch.rand(count, 2, generator=generator) ** 2 * side
    sides[:2] = 0
    return torch.cat([corners, corners + sides], 1)


def pool_both(pools: tuple, maps: list[torch.Tensor], *others: object) -> list[tuple[torch.Tensor, ...]]:
    """Return for each pool its output and the gradients of the maps."""
    found = []
    for pool in pools:
        leaves = [one.clone().requires_grad_() for one in maps]
        output = pool(leaves, *others)
        weights = torch.linspace(-1, 1, output.numel()).view_as(output)
        gradients = torch.autograd.grad((output * weights).sum(), leaves)
        found.append((output.detach(), *gradients))
    return found


@pytest.mark.parametrize(("cells", "samples", "scale"), [((7, 7), 2, 0.25), ((14, 5), 3, 0.5), ((1, 1), 1, 0.25)])
def test_products_are_roi_align(
    cells: tuple[int, int], samples: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region_align, "_CHUNK", 2000)  # several chunks
    torch.manual_seed(0)
    maps, boxes = torch.randn(3, 6, 12, 17), random_regions(40, 17 / scale)
    rois = torch.cat([(torch.arange(40) % 2)[:, None].float(), boxes], 1)  # none of the third image
    pools = tuple(
        lambda leaves, pool=pool: pool(leaves[0], rois, cells, scale, samples)
        for pool in (roi_align, align_by_products)
    )
    theirs, ours = pool_both(pools, [maps])
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("largest", [0, 64 * 64])
def test_pyramid_is_pooled_as_by_torchvision(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_align, "_LARGEST", largest)
    pools = [kind(["0", "1"], 7, 2, canonical_scale=32) for kind in (MultiScaleRoIAlign, RegionAlign)]
    for pool in pools:
        pool.scales, pool.map_levels = [0.25, 0.125], initLevelMapper(2, 3, 32)
    boxes = [random_regions(20, 64), torch.zeros(0, 4), random_regions(9, 64)]

    def named(pool: MultiScaleRoIAlign) -> object:
        return lambda leaves: pool(dict(zip("01", leaves, strict=True)), boxes, 3 * [(64, 64)])

    torch.manual_seed(0)
    maps = [torch.randn(3, 4, 16, 16), torch.randn(3, 4, 8, 8)]
    theirs, ours = pool_both(tuple(map(named, pools)), maps)
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_no_regions_have_no_gradient() -> None:
    maps = torch.randn(2, 3, 8, 8, requires_grad=True)
    pooled = align_by_products(maps, torch.zeros(0, 5), (7, 7), 0.25, 2)
    pooled.sum().backward()
    assert pooled.shape == (0, 3, 7, 7)
    assert maps.grad is None or not maps.grad.any()


def test_products_keep_the_precision_of_the_maps() -> None:
    maps = torch.randn(1, 2, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    rois = torch.tensor([[0.0, 0.0, 0.0, 16.0, 16.0]])
    with torch.autocast("cpu", torch.bfloat16):
        pooled = align_by_products(maps, rois, (2, 2), 0.5, 2)
    assert pooled.dtype == torch.bfloat16
    exact = align_by_products(maps.float(), rois, (2, 2), 0.5, 2)
    torch.testing.assert_close(pooled.float(), exact, atol=0.02, rtol=0.01)
