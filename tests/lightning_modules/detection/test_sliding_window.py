"""Sliding window: equality of dense and crop-by-crop evaluation, and coverage of the grid."""

from typing import Any

import pytest
import torch
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection import SlidingWindow
from darkroom.lightning_modules.detection.sliding_window import WindowClassifier
from darkroom.lightning_modules.layers.backbones import Classifier
from tests.contracts.detection import DetectionContract


def tiny(**kwargs: Any) -> SlidingWindow:
    small = {"num_classes": 5, "window": 16, "channels": 8, "sides": (14.0, 20.0, 28.0), "windows_per_image": 32}
    return SlidingWindow(**{**small, **kwargs})


class TestSlidingWindow(DetectionContract):
    steps = 50

    def build(self, **kwargs: Any) -> SlidingWindow:
        return tiny(**kwargs)


@pytest.mark.parametrize("size", [(64, 64), (45, 71), (9, 30)])
@pytest.mark.parametrize("stride", [4, 8])
def test_dense_pass_equals_crops(size: tuple[int, int], stride: int) -> None:
    model = tiny(stride=stride).eval()
    image = torch.randn(3, *size)
    with torch.inference_mode():
        for resized, count, boxes in model.levels(*size):
            model.mode = "dense"
            dense = model._logits(image[None], resized, count)
            model.mode = "crops"
            crops = model._logits(image[None], resized, count)
            assert dense.shape == crops.shape == (1, len(boxes), 6)
            torch.testing.assert_close(dense, crops, atol=1e-4, rtol=1e-4)


def test_windows_have_requested_sizes_and_aspect_ratios() -> None:
    model = tiny(sides=(20.0, 40.0), aspect_ratios=(0.5, 2.0))
    sizes = []
    for *_, boxes in model.levels(400, 300):
        sizes.append((boxes[:, 2:] - boxes[:, :2]).mean(0))
        assert (boxes[:, 2:] - boxes[:, :2]).std(0).max() < 1e-3
    expected = [[20 * 2**0.5, 20 / 2**0.5], [20 / 2**0.5, 20 * 2**0.5], [56.57, 28.28], [28.28, 56.57]]
    torch.testing.assert_close(torch.stack(sizes), torch.tensor(expected), atol=0.3, rtol=0)


def test_windows_cover_image() -> None:
    for *_, boxes in tiny().levels(50, 83):
        assert boxes[:, :2].min() == 0
        assert boxes[:, 2].max() >= 83 - 1e-3
        assert boxes[:, 3].max() >= 50 - 1e-3


def test_dense_mode_with_padding_raises() -> None:
    padded = Classifier("alexnet", 6, window=63, width=0.1)
    with pytest.raises(UsageError, match="model.mode must be crops for this classifier"):
        tiny(classifier=padded, window=63)
    tiny(classifier=padded, window=63, mode="crops", stride=16)


def test_dense_mode_with_unaligned_stride_raises() -> None:
    with pytest.raises(UsageError, match="model.stride must be a multiple of the classifier's stride, 4, got 6"):
        tiny(stride=6)
    tiny(stride=6, mode="crops")


def test_classifier_of_other_classes_raises() -> None:
    with pytest.raises(UsageError, match="model.classifier must have 6 outputs, .* got 4"):
        tiny(classifier=WindowClassifier(3, 16, 4))


def test_dense_mode_with_ceil_pooling_raises() -> None:
    rounding = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(4, ceil_mode=True), nn.Flatten(), nn.Linear(4 * 16, 6))
    with pytest.raises(UsageError, match="model.mode must be crops for this classifier"):
        tiny(classifier=rounding)


def test_window_classifier_has_stride_four() -> None:
    with pytest.raises(UsageError, match="multiple of 4"):
        WindowClassifier(window=18)
    assert WindowClassifier(3, 32, 8)(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
