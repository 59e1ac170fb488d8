"""Lesson 8: autoencoder."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.lightning_modules.autoencoding import Bernoulli


def _pairs(generator: Generator) -> Sequence[Inputs]:
    inputs = []
    for count in (1, 3):
        images = 2 * torch.rand(count, 2, 4, 4, generator=generator) - 1
        noise = 0.3 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(images.shape, generator=generator)
        inputs.append({"images": images, "reconstructions": (images + noise).clamp(-1, 1)})
    return inputs


def _vectors(generator: Generator) -> Sequence[Inputs]:
    inputs = []
    for count, dimension, k in ((12, 3, 1), (20, 6, 3), (10, 4, 4)):
        scales = torch.arange(dimension, 0, -1.0)
        directions = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator)).Q
        x = torch.randn(count, dimension, generator=generator) * scales @ directions
        inputs.append({"x": x + 5 * torch.randn(dimension, generator=generator), "k": k})
    return inputs


def _codes(generator: Generator) -> Sequence[Inputs]:
    return [
        {
            "start": torch.randn(d, generator=generator),
            "end": torch.randn(d, generator=generator),
            "count": count,
        }
        for d, count in ((1, 2), (3, 5), (4, 8))
    ]


def _outputs(generator: Generator) -> Sequence[Inputs]:
    return [
        {
            "logits": 2 * torch.randn(count, 1, 3, 3, generator=generator),
            "images": 2 * torch.rand(count, 1, 3, 3, generator=generator) - 1,
        }
        for count in (1, 4)
    ]


def _signal_to_noise(images: Tensor, reconstructions: Tensor) -> Tensor:
    return 10 * torch.log10(4 / (images - reconstructions).square().mean((1, 2, 3)))


def _of_the_batch(images: Tensor, reconstructions: Tensor) -> Tensor:
    return 10 * torch.log10(4 / (images - reconstructions).square().mean())


def _by_components(x: Tensor, k: int) -> Tensor:
    centred = (x - x.mean(0)).double()
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -k:]
    return (centred @ directions @ directions.T).float() + x.mean(0)


def _not_centred(x: Tensor, k: int) -> Tensor:
    directions = torch.linalg.svd(x, full_matrices=False).Vh[:k]
    return x @ directions.T @ directions


def _smallest(x: Tensor, k: int) -> Tensor:
    centred = x - x.mean(0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, :k]
    return centred @ directions @ directions.T + x.mean(0)


def _interpolate(start: Tensor, end: Tensor, count: int) -> Tensor:
    return torch.lerp(start, end, torch.linspace(0, 1, count)[:, None])


def _without_end(start: Tensor, end: Tensor, count: int) -> Tensor:
    return torch.lerp(start, end, torch.arange(count)[:, None] / count)


def _images_as_probabilities(logits: Tensor, images: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(1).mean()


EXERCISES = (
    Exercise(
        "peak_signal_to_noise",
        _signal_to_noise,
        _pairs,
        (
            Mistake(
                lambda images, reconstructions: _signal_to_noise(images, reconstructions) - 20 * math.log10(2),
                "the range of the values is taken as 1; from -1 to 1 it is larger",
            ),
            Mistake(_of_the_batch, "the error is averaged over the batch; each image has its own ratio"),
            Mistake(
                lambda images, reconstructions: _signal_to_noise(images, reconstructions) * math.log(10),
                "this is a natural logarithm; decibels need the logarithm to base 10",
            ),
        ),
    ),
    Exercise(
        "reconstruct_by_components",
        _by_components,
        _vectors,
        (
            Mistake(_not_centred, "the mean is not subtracted before the directions are computed, or not added again"),
            Mistake(_smallest, "these are the directions of the smallest variance"),
            Mistake(lambda x, k: _by_components(x, k) - x.mean(0), "the mean is not added again"),
        ),
        tolerance=1e-3,
    ),
    Exercise(
        "interpolate",
        _interpolate,
        _codes,
        (
            Mistake(_without_end, "the last code is not the end: with both ends there are count - 1 steps"),
            Mistake(
                lambda start, end, count: _interpolate(end, start, count), "the line runs from the end to the start"
            ),
        ),
    ),
    Exercise(
        "reconstruction_loss",
        lambda logits, images: -Bernoulli().log_prob(logits, images).mean(),
        _outputs,
        (
            Mistake(
                _images_as_probabilities,
                "images in [-1, 1] are used as probabilities: for black pixels the loss falls without limit",
            ),
        ),
        repair=True,
        differentiable=("logits",),
    ),
)
