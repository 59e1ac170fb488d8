"""Answers of lesson 9."""

import math

import torch
from torch import Tensor


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2


def reparameterize(mean: Tensor, log_variance: Tensor, epsilon: Tensor) -> Tensor:
    return mean + torch.exp(log_variance / 2) * epsilon


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def vae_loss(log_likelihood: Tensor, mean: Tensor, log_variance: Tensor, beta: float) -> Tensor:
    """The broken version adds -KL: its terms are those of the ELBO, which is maximized."""
    kl = 0.5 * (mean.square() + torch.exp(log_variance) - 1 - log_variance).sum(1)
    return (-log_likelihood + beta * kl).mean()
