"""Adversarial losses at known logits, and R1 in closed form."""

import math

import pytest
import torch
from torch import nn

from darkroom.lightning_modules.adversarial.losses import discriminator_loss, generator_loss, gradient_penalty

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_non_saturating_loss_matches_definition() -> None:
    value = -sum(math.log(sigmoid(x)) for x in (2, -1)) / 2 - sum(math.log(1 - sigmoid(x)) for x in (0.5, -3)) / 2
    assert discriminator_loss("non_saturating", REAL, FAKE).item() == pytest.approx(value)
    assert generator_loss("non_saturating", FAKE).item() == pytest.approx(
        -sum(math.log(sigmoid(x)) for x in (0.5, -3)) / 2
    )


def test_hinge_loss_matches_definition() -> None:
    assert discriminator_loss("hinge", REAL, FAKE).item() == pytest.approx((0 + 2) / 2 + (1.5 + 0) / 2)
    assert generator_loss("hinge", FAKE).item() == pytest.approx(2.5 / 2)


def test_least_squares_loss_matches_definition() -> None:
    assert discriminator_loss("least_squares", REAL, FAKE).item() == pytest.approx((1 + 4) / 4 + (0.5**2 + 9) / 4)
    assert generator_loss("least_squares", FAKE).item() == pytest.approx((0.5**2 + 16) / 4)


def test_undecided_discriminator_has_loss_log_4() -> None:
    zero = torch.zeros(3)
    assert discriminator_loss("non_saturating", zero, zero).item() == pytest.approx(math.log(4))


def test_hinge_has_no_gradient_beyond_the_margin() -> None:
    real, fake = torch.tensor([1.5, 0.5], requires_grad=True), torch.tensor([-1.5, -0.5], requires_grad=True)
    discriminator_loss("hinge", real, fake).backward()
    assert real.grad.tolist() == [0, -0.5]
    assert fake.grad.tolist() == [0, 0.5]


def test_loss_of_saturated_bfloat16_logits_is_finite() -> None:
    logits = torch.tensor([500.0, -500.0], dtype=torch.bfloat16)
    for loss in (discriminator_loss("non_saturating", logits, logits), generator_loss("non_saturating", logits)):
        assert loss.dtype == torch.float32
        assert loss.isfinite()


def test_gradient_penalty_of_linear_discriminator() -> None:
    """Check D(x) = <w, x>: the penalty is ||w||^2 for every x, and its gradient 2 w."""
    linear = nn.Linear(12, 1)
    images = torch.randn(5, 3, 2, 2, requires_grad=True)
    penalty = gradient_penalty(linear(images.flatten(1)).flatten(), images)
    penalty.backward()
    torch.testing.assert_close(penalty, linear.weight.square().sum())
    torch.testing.assert_close(linear.weight.grad, 2 * linear.weight.detach())


def test_gradient_penalty_is_mean_over_images() -> None:
    """Check D(x) = ||x||^2 / 2, which has the gradient x."""
    images = torch.randn(5, 3, 2, 2, requires_grad=True)
    penalty = gradient_penalty(images.square().sum((1, 2, 3)) / 2, images)
    torch.testing.assert_close(penalty, images.square().sum((1, 2, 3)).mean())
