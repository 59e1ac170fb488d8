"""CrossEntropy against torch's, and where torch's gives nan."""

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.segmentation import CrossEntropy


@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 3.0]])
def test_equals_torch(weights: list[float] | None) -> None:
    logits, mask = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    mask[0, :2] = 255
    expected = F.cross_entropy(logits, mask, None if weights is None else torch.tensor(weights), ignore_index=255)
    torch.testing.assert_close(CrossEntropy(class_weights=weights)(logits, mask), expected)


def test_nothing_to_judge_is_zero_with_a_gradient_of_zero() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = CrossEntropy()(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0
