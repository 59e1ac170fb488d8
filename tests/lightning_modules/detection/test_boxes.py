"""Boxes: offsets of R-CNN, sampling of regions, suppression and crops."""

import math

import pytest
import torch

from darkroom.lightning_modules.detection.boxes import (
    add_context,
    clip,
    decode,
    encode,
    fixed_seed,
    match,
    sample_rois,
    select_detections,
    warp,
)
from darkroom.lightning_modules.detection.inference import Limits


def some_boxes(count: int, seed: int = 0) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 50
    sizes = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed + 1)) * 40 + 2
    return torch.cat([corners, corners + sizes], 1)


def test_offsets_match_paper() -> None:
    """Check Girshick et al. 2014, equations 6 to 9, from (0, 0, 10, 20) to (5, 10, 25, 20)."""
    offsets = encode(torch.tensor([[5.0, 10, 25, 20]]), torch.tensor([[0.0, 0, 10, 20]]), stds=(1, 1, 1, 1))
    torch.testing.assert_close(offsets, torch.tensor([[1.0, 0.25, math.log(2), math.log(0.5)]]))


def test_decode_inverts_encode() -> None:
    boxes, references = some_boxes(20), some_boxes(20, 7)
    torch.testing.assert_close(decode(encode(boxes, references), references), boxes)


def test_offsets_can_differ_per_class() -> None:
    references = some_boxes(6)
    offsets = torch.randn(6, 3, 4)
    each = torch.stack([decode(offsets[:, k], references) for k in range(3)], 1)
    torch.testing.assert_close(decode(offsets, references[:, None]), each)


def test_extreme_offsets_stay_finite() -> None:
    assert decode(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0, 10, 10]])).isfinite().all()


def test_suppression_is_per_class() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [30, 30, 40, 40]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.3, 0.0]])
    found = select_detections(boxes, scores, (50, 50), Limits(0.2, 0.5, 100))
    assert found["scores"].tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert found["labels"].tolist() == [1, 2, 1]
    assert len(select_detections(boxes, scores, (50, 50), Limits(0.2, 0.5, 2))["boxes"]) == 2


def test_detections_are_clipped_to_image() -> None:
    boxes = torch.tensor([[-5.0, -5, 10, 10], [60, 60, 70, 70]])
    found = select_detections(boxes, torch.ones(2, 1), (50, 40), Limits(0.1, 0.5, 100))
    assert found["boxes"].tolist() == [[0, 0, 10, 10]]
    torch.testing.assert_close(clip(boxes, (50, 65))[1], torch.tensor([60.0, 50, 65, 50]))


def test_warp_matches_known_averages() -> None:
    image = torch.arange(16.0).view(1, 4, 4)
    torch.testing.assert_close(warp(image, torch.tensor([[0.0, 0, 4, 4]]), 4)[0], image)
    average = warp(image, torch.tensor([[0.0, 0, 4, 4]]), 2)[0, 0]
    torch.testing.assert_close(average, torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    assert warp(image, torch.tensor([[-40.0, -40, -20, -20]]), 2).abs().max() == 0


def test_context_matches_rcnn() -> None:
    """Check 16 pixels of 227 on each side, where the box grows by 227 / 195."""
    grown = add_context(torch.tensor([[100.0, 100, 295, 490]]), 227, 16)
    torch.testing.assert_close(grown, torch.tensor([[84.0, 68, 311, 522]]))


def test_match_without_objects_returns_zero_iou() -> None:
    iou, index = match(some_boxes(3), torch.zeros(0, 4))
    assert iou.tolist() == [0, 0, 0]
    assert index.dtype == torch.int64


def test_sampled_rois_are_a_quarter_objects() -> None:
    """Check Girshick 2015, section 2.3: 64 regions, 25% with IoU of at least .5, background from .1 to .5."""
    target = {"boxes": torch.tensor([[20.0, 20, 60, 60]]), "labels": torch.tensor([3])}
    steps = torch.arange(-30.0, 31, 2)
    shifts = torch.cartesian_prod(steps, steps)
    proposals = target["boxes"] + shifts.repeat(1, 2)
    rois, labels, truth = sample_rois(proposals, target, 64)
    iou, _ = match(rois, target["boxes"])
    assert len(rois) == 64
    assert (labels == 3).sum() == 16
    assert (iou[labels == 3] >= 0.5).all()
    background = iou[labels == 0]
    assert (background >= 0.1).all()
    assert (background < 0.5).all()
    assert (truth[labels == 3] == target["boxes"]).all()


def test_image_without_objects_gives_background() -> None:
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    rois, labels, truth = sample_rois(some_boxes(10), target, 64)
    assert len(rois) == 10
    assert (labels == 0).all()
    assert torch.equal(truth, rois)


def test_true_boxes_are_added_to_rois() -> None:
    target = {"boxes": some_boxes(2), "labels": torch.tensor([1, 2])}
    rois, labels, _ = sample_rois(torch.zeros(0, 4), target, 8)
    assert len(rois) == 2
    assert sorted(labels.tolist()) == [1, 2]


def test_fixed_seed_keeps_global_rng() -> None:
    before = torch.get_rng_state()
    with fixed_seed(torch.device("cpu")):
        first = torch.rand(3)
    with fixed_seed(torch.device("cpu")):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())
