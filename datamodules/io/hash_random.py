"""Random numbers that are functions of keys alone: for whole batches, in any order, the same on every machine."""

from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """Apply the finaliser of SplitMix64 (Steele, Lea, Flood 2014; Stafford's variant 13) to uint64 numbers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(keys: Sequence[int | np.ndarray], count: int) -> np.ndarray:
    """Return numbers in [0, 1) that depend on the keys alone: float64 (B, count). Keys broadcast to (B,)."""
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = _mix(state + _GOLDEN + np.atleast_1d(np.asarray(key)).astype(np.uint64))
    bits = _mix(state[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
    return (bits >> np.uint64(11)) * 2.0**-53
