"""Lesson 10: GAN. Write three functions and repair the fourth: darkroom check lesson 10."""

from collections.abc import Callable

from torch import Tensor


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the loss of the discriminator (Goodfellow et al. 2014, equation 1, with the sign of a loss).

    Args:
        real: logits of real images, (B,), possibly as large as 1000.
        fake: logits of generated images, (B,).

    Returns:
        mean of -log D(real) plus mean of -log(1 - D(fake)), where D is the sigmoid of the logit, (), finite; differentiable
        with respect to real and fake.
    """
    raise NotImplementedError


def generator_loss(fake: Tensor) -> Tensor:
    """Compute the non-saturating loss of the generator (Goodfellow et al. 2014, section 3).

    Args:
        fake: logits of generated images, (B,), possibly as low as -1000.

    Returns:
        mean of -log D(fake), (), finite; differentiable with respect to fake.
    """
    raise NotImplementedError


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Compute the R1 penalty without its factor (Mescheder et al. 2018, equation 9).

    Args:
        discriminator: maps images (B, C, H, W) to logits (B,), each a function of its own image.
        images: real ones, (B, C, H, W).

    Returns:
        squared norm of the gradient of each logit with respect to its image, averaged over the batch, (); differentiable
        with respect to the weights of the discriminator, which the penalty trains.
    """
    raise NotImplementedError


def discriminator_logits(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the logits of real and generated images for a discriminator with batch norm, in training mode.

    Both must be normalized by the same mean and variance: what all generated images have in common, such as a wrong
    background, must stay visible.

    Args:
        discriminator: maps images (B, C, H, W) to logits (B,).
        real, fake: (B, C, H, W) each.

    Returns:
        logits of the real and of the generated images, (B,) each.
    """
    return discriminator(real), discriminator(fake)
