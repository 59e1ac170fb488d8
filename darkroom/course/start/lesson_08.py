"""Lesson 8: autoencoder. Write three functions and repair the fourth: darkroom check lesson 8."""

from torch import Tensor
from torch.nn import functional as F


def peak_signal_to_noise(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio of each reconstruction in decibels: 10 log10(range^2 / mean squared error).

    Args:
        images, reconstructions: (B, C, H, W) in [-1, 1].

    Returns:
        (B,).
    """
    raise NotImplementedError


def reconstruct_by_components(x: Tensor, k: int) -> Tensor:
    """Reconstruct vectors from their k principal components, as the best linear autoencoder does.

    Args:
        x: (N, D).
        k: number of components, from 1 to D.

    Returns:
        (N, D): the point nearest to each vector in the mean of all plus the span of the k directions of largest variance.
    """
    raise NotImplementedError


def interpolate(start: Tensor, end: Tensor, count: int) -> Tensor:
    """Compute codes on the straight line between two codes, at equal distances, with both ends.

    Args:
        start, end: (D,).
        count: number of codes, at least 2.

    Returns:
        (count, D).
    """
    raise NotImplementedError


def reconstruction_loss(logits: Tensor, images: Tensor) -> Tensor:
    """Compute the cross-entropy of pixels under Bernoulli distributions, where a value of 1 is white and -1 is black.

    Args:
        logits: output of the decoder, (B, C, H, W); the sigmoid is the probability of white.
        images: (B, C, H, W) in [-1, 1]; grey values are the expectation of random black and white pixels.

    Returns:
        sum over the values of an image, averaged over the batch, (), at least 0; differentiable with respect to the logits.
    """
    return F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(1).mean()
