"""Checks of the data's normalization against that of pretrained weights and of methods that normalize images themselves."""

from collections.abc import Sequence

import numpy as np
from lightning import Trainer

from darkroom.errors import UsageError
from darkroom.protocols import NormalizedData
from darkroom.runtime.lightning_compat import datamodule_of

# Largest difference of means and deviations: 0.5 is taken for 127 / 255.
_TOLERANCE = 0.01


def check_normalization(trainer: Trainer, expected: tuple[Sequence[float], Sequence[float]] | None) -> None:
    """Check that the data are normalized as the initial weights expect.

    Args:
        trainer: of the fit; nothing is checked without a datamodule that normalizes.
        expected: mean and standard deviation per channel; None: nothing is checked.

    Raises:
        UsageError: they differ; names the values to set.
    """
    data = datamodule_of(trainer)
    if expected is None or not isinstance(data, NormalizedData):
        return
    given = [list(data.mean), list(data.std)]
    mean, std = ([round(value, 3) for value in values] for values in expected)
    if np.shape(given) != np.shape(expected) or not np.allclose(given, expected, rtol=0, atol=_TOLERANCE):
        raise UsageError(
            f"data.mean and data.std must be {mean} and {std}, which the weights of model.weights expect, got {given[0]} "
            f"and {given[1]}; set data.mean and data.std to these values"
        )


def refuse_normalized_data(trainer: Trainer, method: str) -> None:
    """Check that images reach a method that normalizes them itself in [0, 1], so that they are not normalized twice.

    Args:
        trainer: of the fit; nothing is checked without a datamodule that normalizes.
        method: name of the method.

    Raises:
        UsageError: the datamodule subtracts a mean or divides by a deviation.
    """
    data = datamodule_of(trainer)
    if isinstance(data, NormalizedData) and (any(data.mean) or any(value != 1 for value in data.std)):
        raise UsageError(
            f"data.mean and data.std must be 0 and 1, the defaults of detection, got {list(data.mean)} and "
            f"{list(data.std)}: {method} normalizes images itself; leave both options out"
        )
