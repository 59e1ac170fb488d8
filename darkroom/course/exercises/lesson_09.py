"""Lesson 9: VAE and conditional VAE."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.lightning_modules.autoencoding import kl_divergence


def _posteriors(generator: Generator) -> list[dict[str, Tensor]]:
    """Return means and log variances (B, D) of three batches."""
    return [
        {"mean": torch.randn(b, d, generator=generator), "log_variance": torch.randn(b, d, generator=generator)}
        for b, d in ((1, 1), (3, 2), (5, 8))
    ]


def _noisy_posteriors(generator: Generator) -> Sequence[Inputs]:
    return [one | {"epsilon": torch.randn(one["mean"].shape, generator=generator)} for one in _posteriors(generator)]


def _log_weights(generator: Generator) -> Sequence[Inputs]:
    return [
        {"log_weights": 2 * torch.randn(k, b, generator=generator) + shift}
        for k, b, shift in ((1, 3, 0.0), (4, 3, 0.0), (8, 5, -1000.0))
    ]


def _losses(generator: Generator) -> Sequence[Inputs]:
    return [
        {"log_likelihood": -10 * torch.rand(len(one["mean"]), generator=generator), **one, "beta": beta}
        for one, beta in zip(_posteriors(generator), (1.0, 1.0, 0.3), strict=True)
    ]


def _kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    return kl_divergence(mean, log_variance).sum(1)


EXERCISES = (
    Exercise(
        "kl_to_standard_normal",
        _kl,
        _posteriors,
        (
            Mistake(
                lambda mean, log_variance: kl_divergence(mean, log_variance).mean(1),
                "the KL is averaged over the dimensions of a code; the KL of independent dimensions adds up",
            ),
            Mistake(
                lambda mean, log_variance: _kl(mean, 2 * log_variance),
                "log_variance is used as the logarithm of the standard deviation",
            ),
            Mistake(
                lambda mean, log_variance: 2 * _kl(mean, log_variance),
                "the result is twice the KL; look at the factor in front of the sum",
            ),
        ),
        differentiable=("mean", "log_variance"),
    ),
    Exercise(
        "reparameterize",
        lambda mean, log_variance, epsilon: mean + torch.exp(log_variance / 2) * epsilon,
        _noisy_posteriors,
        (
            Mistake(
                lambda mean, log_variance, epsilon: mean + log_variance.exp() * epsilon,
                "the noise is scaled by the variance; its scale must be the standard deviation",
            ),
            Mistake(
                lambda mean, log_variance, epsilon: mean + log_variance * epsilon,
                "the noise is scaled by the logarithm of the variance",
            ),
        ),
        differentiable=("mean", "log_variance"),
    ),
    Exercise(
        "importance_weighted_bound",
        lambda log_weights: torch.logsumexp(log_weights, 0) - math.log(len(log_weights)),
        _log_weights,
        (
            Mistake(
                lambda log_weights: log_weights.mean(0),
                "this is the mean of the logarithms, so the ELBO; the bound is the logarithm of a mean",
            ),
            Mistake(
                lambda log_weights: torch.logsumexp(log_weights, 0),
                "this is the logarithm of the sum; it grows with the number of samples even if all weights are equal",
            ),
            Mistake(
                lambda log_weights: log_weights.exp().mean(0).log(),
                "weights of exp(-1000) are 0 in floating point; stay with logarithms",
            ),
        ),
        differentiable=("log_weights",),
    ),
    Exercise(
        "vae_loss",
        lambda log_likelihood, mean, log_variance, beta: (-log_likelihood + beta * _kl(mean, log_variance)).mean(),
        _losses,
        (
            Mistake(
                lambda log_likelihood, mean, log_variance, beta: (
                    -log_likelihood - beta * _kl(mean, log_variance)
                ).mean(),
                "one term has the wrong sign: this loss falls as the posterior moves away from the prior",
            ),
        ),
        repair=True,
        differentiable=("log_likelihood", "mean", "log_variance"),
    ),
)
