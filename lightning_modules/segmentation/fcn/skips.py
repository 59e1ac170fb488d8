"""Scores of finer maps in an FCN: how many, and their factors."""

from typing import Literal

from darkroom.errors import UsageError

Stride = Literal[32, 16, 8]

# "At once": factors that scale the activations of the two finer poolings to the range of the coarse scores.
_AT_ONCE = (0.01, 0.0001)


def skip_scales(stride: Stride, at_once: bool) -> tuple[float, ...]:
    """Return a factor for each map finer than stride 32, up to ``stride``, the coarser first.

    Raises:
        UsageError: the stride is not one of FCN's.
    """
    if stride not in (32, 16, 8):
        raise UsageError(f"model.stride must be 32, 16 or 8, got {stride}")
    steps = {32: 0, 16: 1, 8: 2}[stride]
    return _AT_ONCE[:steps] if at_once else (1.0,) * steps
