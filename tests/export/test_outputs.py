"""Comparison of exported outputs with those of predict, and conversion between both forms."""

from typing import Any

import numpy as np
import pytest
import torch

from darkroom.errors import DataError
from darkroom.export.check import require_agreement
from darkroom.export.outputs import TASKS, Agreement, name_detections, split_detections


def detections(*scores: float) -> dict[str, torch.Tensor]:
    corners = 10 * torch.arange(len(scores), dtype=torch.float32)[:, None]
    return {
        "boxes": torch.cat([corners, corners, corners + 8, corners + 8], 1),
        "scores": torch.tensor(scores),
        "labels": torch.ones(len(scores), dtype=torch.long),
    }


def test_detections_of_a_batch_are_split_by_image() -> None:
    found = [detections(0.9, 0.5), detections(), detections(0.7)]
    again = split_detections(name_detections(found), 3)
    for one, other in zip(found, again, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, 3),
        ({"boxes": 0.05}, 3),
        ({"boxes": 2.0}, 2),
        ({"scores": 0.01}, 2),
        ({"labels": 1}, 2),
        ({"image_index": 1}, 2),
    ],
)
def test_detection_is_the_same_within_a_thousandth(changed: dict[str, Any], same: int) -> None:
    reference = name_detections([detections(0.9, 0.5, 0.3)])
    exported = {name: value.copy() for name, value in reference.items()}
    for name, step in changed.items():
        exported[name][1] += step
    agreement = TASKS["detection"].compare(exported, reference, (100, 100))
    assert (agreement.same, agreement.decisions) == (same, 3)


def test_missing_and_additional_detections_count() -> None:
    few, many = name_detections([detections(0.9)]), name_detections([detections(0.9, 0.5)])
    for one, other in ((few, many), (many, few)):
        agreement = TASKS["detection"].compare(one, other, (100, 100))
        assert (agreement.same, agreement.decisions) == (1, 2)


def test_outputs_of_another_shape_disagree() -> None:
    exported = {"mask": np.zeros((1, 4, 4), int), "logits": np.zeros((1, 2, 4, 4), np.float32)}
    reference = {"mask": np.zeros((1, 5, 4), int), "logits": np.zeros((1, 2, 5, 4), np.float32)}
    agreement = TASKS["segmentation"].compare(exported, reference, (5, 4))
    assert agreement == Agreement(float("inf"), 0, 20)


@pytest.mark.parametrize(
    ("agreement", "agrees"),
    [
        (Agreement(1e-5, 999, 1000), True),
        (Agreement(2e-4, 1000, 1000), False),
        (Agreement(0.0, 998, 1000), False),
        (Agreement(float("nan"), 1000, 1000), False),
    ],
)
def test_disagreement_is_an_error(agreement: Agreement, agrees: bool) -> None:
    if agrees:
        require_agreement(agreement, "pixels", "the samples")
        return
    with pytest.raises(DataError, match="no file is written"):
        require_agreement(agreement, "pixels", "the samples")
