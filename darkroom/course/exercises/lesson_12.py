"""Lesson 12: guidance and Imagen."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.lightning_modules.diffusion.sampling.guidance import Guided, dynamic_threshold

Network = Callable[[Tensor, Tensor], Tensor]


class SmallNetwork(nn.Module):
    """Network with random weights: x_t (B, 2, 3, 3) and labels int64 (B,) up to 4 -> (B, 2, 3, 3)."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.conv, self.embedding = nn.Conv2d(2, 2, 3, padding=1), nn.Embedding(5, 2)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.conv(x) + self.embedding(labels)[:, :, None, None]


class _WithTime(nn.Module):
    """Network as ``Guided`` calls it, with a time."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.inner = network

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.inner(x, label)


def _labels(generator: Generator) -> Sequence[Inputs]:
    return [
        {
            "labels": torch.randint(4, (count,), generator=generator),
            "uniform": torch.rand(count, generator=generator),
            "probability": probability,
            "null": null,
        }
        for count, probability, null in ((8, 0.3, 4), (8, 0.0, 4), (16, 0.1, 9))
    ]


def _predictions(generator: Generator) -> Sequence[Inputs]:
    scales = torch.tensor([0.3, 1.0, 3.0]).view(3, 1, 1, 1)
    return [
        {"x0": torch.randn(3, 2, 5, 5, generator=generator).clamp(-2, 2) * scales, "percentile": percentile}
        for percentile in (0.9, 0.5)
    ]


def _velocities(generator: Generator) -> Sequence[Inputs]:
    return [
        {
            "v": torch.randn(2, 2, 3, 3, generator=generator),
            "x_t": torch.randn(2, 2, 3, 3, generator=generator),
            "alpha": alpha,
            "sigma": (1 - alpha**2) ** 0.5,
        }
        for alpha in (0.8, 0.28)
    ]


def _guidance(generator: Generator) -> Sequence[Inputs]:
    return [
        {
            "network": SmallNetwork(generator),
            "x_t": torch.randn(3, 2, 3, 3, generator=generator),
            "labels": torch.randint(4, (3,), generator=generator),
            "null": 4,
            "weight": weight,
        }
        for weight in (3.0, 1.0, 0.0)
    ]


def _per_batch(x0: Tensor, percentile: float) -> Tensor:
    return dynamic_threshold(x0.flatten(0, 1)[None], percentile).view_as(x0)


def _without_minimum(x0: Tensor, percentile: float) -> Tensor:
    scale = torch.quantile(x0.abs().flatten(1), percentile, dim=1).view(-1, 1, 1, 1)
    return x0.clamp(-scale, scale) / scale


def _guided(network: Network, x_t: Tensor, labels: Tensor, null: int, weight: float) -> Tensor:
    return Guided(_WithTime(network), weight, {"label": null})(x_t, torch.zeros(len(x_t)), label=labels)


def _papers_weight(network: Network, x_t: Tensor, labels: Tensor, null: int, weight: float) -> Tensor:
    return _guided(network, x_t, labels, null, weight + 1)


EXERCISES = (
    Exercise(
        "drop_labels",
        lambda labels, uniform, probability, null: torch.where(uniform < probability, null, labels),
        _labels,
        (
            Mistake(
                lambda labels, uniform, probability, null: torch.where(uniform < probability, labels, null),
                "labels are kept where they must be dropped",
            ),
        ),
    ),
    Exercise(
        "dynamic_threshold",
        dynamic_threshold,
        _predictions,
        (
            Mistake(lambda x0, percentile: x0.clamp(-1, 1), "this is static thresholding: values are only clipped"),
            Mistake(_per_batch, "one scale for the whole batch; each image has its own"),
            Mistake(_without_minimum, "images within [-1, 1] are stretched; their scale must not be below 1"),
            Mistake(
                lambda x0, percentile: dynamic_threshold(x0, 1.0),
                "the scale is the largest value, so that a single outlier darkens the image",
            ),
        ),
    ),
    Exercise(
        "v_to_eps",
        lambda v, x_t, alpha, sigma: alpha * v + sigma * x_t,
        _velocities,
        (
            Mistake(lambda v, x_t, alpha, sigma: alpha * x_t - sigma * v, "this is x_0"),
            Mistake(lambda v, x_t, alpha, sigma: sigma * v + alpha * x_t, "the factors alpha and sigma are exchanged"),
        ),
    ),
    Exercise(
        "guided_prediction",
        _guided,
        _guidance,
        (
            Mistake(
                lambda network, x_t, labels, null, weight: _guided(network, x_t, labels, null, 1 - weight),
                "conditional and unconditional predictions are exchanged: a weight above 1 leads away from the condition",
            ),
            Mistake(
                _papers_weight,
                "this is the weight of the paper, in which 0 is the conditional model; here it is 1",
            ),
        ),
        repair=True,
    ),
)
