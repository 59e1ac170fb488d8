"""Attributes of the Trainer that Lightning sets outside of its class, where type checkers cannot see them."""

from collections.abc import Sequence
from typing import Any

from lightning import Trainer

from darkroom.errors import UsageError
from darkroom.protocols import NamedClasses


def datamodule_of(trainer: Trainer) -> Any:
    """Return the Trainer's datamodule, None if it was given loaders."""
    return trainer.datamodule  # type: ignore[attr-defined]  # set by its data connector


def class_names_of(trainer: Trainer) -> Sequence[str] | None:
    """Return the names of the datamodule's classes, None if it has none."""
    data = datamodule_of(trainer)
    return data.class_names if isinstance(data, NamedClasses) else None


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Return whether the Trainer runs a few batches only, to find mistakes."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by _init_debugging_flags


def log_interval(trainer: Trainer) -> int:
    """Return the number of steps from one logged step to the next, 0 for none."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by its logger connector


def count_epochs(trainer: Trainer) -> int:
    """Return the number of epochs of the fit.

    Raises:
        UsageError: ``trainer.max_epochs`` is not set.
    """
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        raise UsageError("trainer.max_epochs must be set to the length of the fit")
    return trainer.max_epochs
