"""Paired bootstrap over test samples (Efron & Tibshirani 1993, chapter 13: percentile intervals)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]
"""Value of a metric for sets of samples: weights (draws, N) -> (draws,). A weight is the number of times that a sample is
in the set, which is all that resampling changes."""

DRAWS = 2000


@dataclass(frozen=True)
class Difference:
    """Difference of two methods on the same samples.

    Args:
        value: of the second method minus the first.
        low, high: ends of the 95 % interval.
    """

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """True if the interval does not contain 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Resampled:
    """Metric of a method on the test samples and on resampled sets of them.

    Args:
        value: on the test samples.
        draws: float (DRAWS,), on the sets, which are the same for all methods of the same samples.
    """

    value: float
    draws: np.ndarray


def resample(statistic: Statistic, used: np.ndarray, seed: int = 0) -> Resampled:
    """Compute a metric on the test samples and on sets of them, sampled with replacement.

    Args:
        statistic: the metric.
        used: bool (N,), test samples that count; a method must not lose the samples that only it has no score for.
        seed: of the resampling.
    """
    generator, count = np.random.default_rng(seed), int(used.sum())
    value = statistic(used[None].astype(np.float64))
    draws = []
    for _ in range(0, DRAWS if count else 0, 100):  # in parts, so that memory does not grow with the draws
        weights = np.zeros((100, len(used)))
        weights[:, used] = generator.multinomial(count, np.full(count, 1 / count), size=100)
        draws.append(statistic(weights))
    return Resampled(float(value[0]), np.concatenate([*draws, np.empty(0)]))


def paired_difference(first: Resampled, second: Resampled) -> Difference | None:
    """Compute the difference of a metric and its interval; None if a method has no finite value."""
    value, draws = second.value - first.value, second.draws - first.draws
    known = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not len(known):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return Difference(value, float(low), float(high))


def mean_statistic(scores: np.ndarray) -> Statistic:
    """Return the mean of scores (N,) of samples as a statistic; samples without a score (NaN) are left out."""
    known = np.isfinite(scores)

    def mean(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # NaN for a set of samples without a score
            return weights[:, known] @ scores[known] / weights[:, known].sum(1)

    return mean


def average(statistics: list[Statistic]) -> Statistic:
    """Return the mean of several statistics, such as those of the seeds of a method."""
    return lambda weights: np.mean([statistic(weights) for statistic in statistics], axis=0)
