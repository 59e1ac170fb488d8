"""Lesson 9: VAE and conditional VAE. Write three functions and repair the fourth: darkroom check lesson 9."""

import torch
from torch import Tensor


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute KL(N(mean, exp(log_variance)) || N(0, 1)) of each image, in nats.

    Args:
        mean: (B, D).
        log_variance: natural logarithm of the variance, (B, D).

    Returns:
        (B,), at least 0; summed over the D dimensions of a code; differentiable with respect to mean and log_variance.
    """
    raise NotImplementedError


def reparameterize(mean: Tensor, log_variance: Tensor, epsilon: Tensor) -> Tensor:
    """Turn standard normal noise into a sample of N(mean, exp(log_variance)).

    Args:
        mean: (B, D).
        log_variance: natural logarithm of the variance, (B, D).
        epsilon: standard normal noise, (B, D).

    Returns:
        (B, D), differentiable with respect to mean and log_variance.
    """
    raise NotImplementedError


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Compute the logarithm of the mean of k weights for each image (Burda et al. 2016, equation 8).

    The weights themselves are too small for floating point: their logarithms are near -1000.

    Args:
        log_weights: log p(x, z) - log q(z|x) of k samples of z, (k, B).

    Returns:
        (B,), finite, differentiable with respect to log_weights.
    """
    raise NotImplementedError


def vae_loss(log_likelihood: Tensor, mean: Tensor, log_variance: Tensor, beta: float) -> Tensor:
    """Compute the loss that training minimizes: a weighted negative ELBO, averaged over the batch.

    Args:
        log_likelihood: log p(x|z) of each image, (B,).
        mean, log_variance: of q(z|x), (B, D).
        beta: weight of the KL, above 0.

    Returns:
        a number, (), differentiable with respect to log_likelihood, mean and log_variance.
    """
    kl = 0.5 * (1 + log_variance - mean.square() - torch.exp(log_variance)).sum(1)
    return (-log_likelihood + beta * kl).mean()
