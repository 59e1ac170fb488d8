"""Normalization of the images that a network gets, and its check against that of pretrained weights."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from darkroom.errors import UsageError
from darkroom.protocols import NormalizedData

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation per channel, of images in [0, 1]

# Largest difference of means and deviations: 0.5 is taken for 127 / 255.
_TOLERANCE = 0.01


class Normalized(Protocol):
    """Method whose images are normalized, by the data or by itself.

    Attributes:
        own_normalization: statistics by which the method normalizes images; None: the data do it.
        expected_normalization: statistics of the images for which the initial weights were trained; None: unknown, or the
            initial weights are random.
    """

    init_from: str | None
    own_normalization: Statistics | None
    expected_normalization: Statistics | None


def find_normalization(module: Normalized, data: object) -> Statistics | None:
    """Return the statistics by which the images of a network are normalized, by its method or the data; None: unknown."""
    if module.own_normalization is not None:
        return module.own_normalization
    return (data.mean, data.std) if isinstance(data, NormalizedData) else None


def read_normalization(checkpoint: Mapping[str, Any]) -> Statistics | None:
    """Return the statistics of the images on which the weights of a checkpoint were trained; None: unknown.

    Earlier versions saved the statistics of the data alone. If these data were not normalized, the method may have
    normalized them itself.
    """
    found = checkpoint.get("own_normalization") or checkpoint.get("normalization")
    if found is None or ("own_normalization" not in checkpoint and not _normalizes(*found)):
        return None
    return found[0], found[1]


def check_normalization(module: Normalized, stage: str, data: object) -> None:
    """Check that the images of a fit are normalized as the initial weights expect.

    Args:
        module: to be checked.
        stage: nothing is checked in other stages than ``fit``, whose weights are trained.
        data: the datamodule of the stage.

    Raises:
        UsageError: they are not; names the values to set.
    """
    if stage != "fit":
        return
    weights = "the weights of model.init_from" if module.init_from else "the pretrained weights"
    require_normalization(module, data, module.expected_normalization, weights)


def require_normalization(module: Normalized, data: object, expected: Statistics | None, weights: str) -> None:
    """Raise a UsageError if the images of a fit are normalized by other statistics than those expected.

    Args:
        module: that is trained.
        data: the datamodule of the fit.
        expected: by the initial weights; None: unknown.
        weights: name of the initial weights in the message.
    """
    given = find_normalization(module, data)
    if expected is None or given is None:
        return
    expected = _adapt(expected, len(given[0]))
    if all(np.allclose(one, other, rtol=0, atol=_TOLERANCE) for one, other in zip(given, expected, strict=True)):
        return
    (mean, std), (wanted_mean, wanted_std) = _round(given), _round(expected)
    if module.own_normalization is not None:
        raise UsageError(
            f"{weights} must be trained on images normalized with mean {mean} and std {std}, as {type(module).__name__} "
            f"normalizes them, but were trained with {wanted_mean} and {wanted_std}; train them with data.mean {mean} and "
            f"data.std {std}"
        )
    raise UsageError(
        f"data.mean and data.std must be {wanted_mean} and {wanted_std}, which {weights} expect, got {mean} and {std}; set "
        "data.mean and data.std to these values"
    )


def refuse_normalized_data(module: Normalized, data: object) -> None:
    """Raise a UsageError if both a method and the datamodule of its fit normalize images."""
    if module.own_normalization is None or not isinstance(data, NormalizedData):
        return
    if _normalizes(data.mean, data.std):
        raise UsageError(
            f"data.mean and data.std must be 0 and 1, the defaults of detection, got {list(data.mean)} and "
            f"{list(data.std)}: {type(module).__name__} normalizes images itself; leave both options out"
        )


def _normalizes(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Return whether statistics change images: they do unless the mean is 0 and the standard deviation 1."""
    return any(mean) or any(value != 1 for value in std)


def _adapt(statistics: Statistics, channels: int) -> Statistics:
    """Return the statistics of images with other channels: the averages over the channels."""
    if len(statistics[0]) == channels:
        return statistics
    mean, std = ([float(np.mean(values))] * channels for values in statistics)
    return mean, std


def _round(statistics: Statistics) -> list[list[float]]:
    return [[round(value, 3) for value in values] for values in statistics]
