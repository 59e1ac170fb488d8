"""Losses of generator and discriminator: means over a batch of logits, in float32."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

AdversarialLoss = Literal["non_saturating", "hinge", "least_squares"]


def discriminator_loss(kind: AdversarialLoss, real: Tensor, fake: Tensor) -> Tensor:
    """Compute the discriminator's loss, a scalar.

    Args:
        kind: non_saturating (Goodfellow et al. 2014, equation 1), hinge (Miyato et al. 2018, equation 16) or least_squares
            (Mao et al. 2017, equation 9).
        real: logits (B,) of real images.
        fake: logits (B,) of generated images.
    """
    real, fake = real.float(), fake.float()
    if kind == "non_saturating":  # -log sigmoid(real) - log(1 - sigmoid(fake))
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def generator_loss(kind: AdversarialLoss, fake: Tensor) -> Tensor:
    """Compute the generator's loss, a scalar.

    Args:
        kind: non_saturating (Goodfellow et al. 2014, section 3: maximise log D), hinge (Miyato et al. 2018, equation 17) or
            least_squares (Mao et al. 2017, equation 9).
        fake: logits (B,) of generated images.
    """
    fake = fake.float()
    if kind == "non_saturating":
        return F.softplus(-fake).mean()
    if kind == "hinge":
        return -fake.mean()
    return (fake - 1).square().mean() / 2


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Compute R1's E ||grad D(x)||^2 over real images (Mescheder et al. 2018, equation 9, without gamma / 2), a scalar.

    Args:
        logits: (B,), each a function of its own image only, computed in float32.
        images: (B, C, H, W) that the logits were computed from; they require gradients.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()
