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


def paired_difference(first: Statistic, second: Statistic, num_samples: int, seed: int = 0) -> Difference:
    """Compute the difference of a metric and its interval; both methods get the same resampled sets.

    Args:
        first, second: metric of each method.
        num_samples: number of test samples, N.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    value = second(np.ones((1, num_samples))) - first(np.ones((1, num_samples)))
    differences = []
    for _ in range(0, DRAWS, 100):  # in parts, so that memory does not grow with the draws
        weights = generator.multinomial(num_samples, np.full(num_samples, 1 / num_samples), size=100).astype(np.float64)
        differences.append(second(weights) - first(weights))
    low, high = np.nanpercentile(np.concatenate(differences), [2.5, 97.5])
    return Difference(float(value[0]), float(low), float(high))


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
