"""Length of a recipe in optimizer steps and images, from the Trainer's options and the size of the training data."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Length of a fit.

    Args:
        batch: images of an optimizer step on all devices.
        steps: of the optimizer; None: the size of the data or the length is unknown.
        samples: training images; None: unknown.
        missing: what must be set to know the length; empty if it is known.
    """

    batch: int
    steps: int | None
    samples: int | None
    missing: str = ""

    @property
    def images(self) -> int | None:
        """Images of the whole fit."""
        return None if self.steps is None else self.steps * self.batch


def accumulated(trainer: Mapping[str, Any]) -> int:
    """Return the number of batches of a step."""
    value = trainer.get("accumulate_grad_batches")
    return value if isinstance(value, int) else 1


def recipe_of(trainer: Mapping[str, Any], images: int, devices: int, samples: int | None) -> Recipe:
    """Compute the length of a fit: ``max_steps`` or ``max_epochs``, whichever is reached first.

    Each device has an equal number of training images, of which its loader drops the last, smaller batch. An epoch has one
    batch at least; ``limit_train_batches`` and ``overfit_batches`` shorten it.

    Args:
        trainer: options of the Trainer.
        images: of a batch on one device.
        devices: number of them.
        samples: training images; None: unknown.
    """
    micro_batches = accumulated(trainer)
    max_steps, max_epochs = trainer.get("max_steps", -1), trainer.get("max_epochs")
    lengths = [max_steps] if max_steps is not None and max_steps >= 0 else []
    epochs = None if max_epochs is None or max_epochs < 0 else max_epochs
    if samples is not None and epochs is not None:
        batches = max(1, samples // devices // images)
        limit = trainer.get("overfit_batches") or trainer.get("limit_train_batches")
        if isinstance(limit, int):
            batches = min(batches, limit)
        elif isinstance(limit, float):
            batches = int(limit * batches)
        lengths.append(epochs * ceil(batches / micro_batches))
    missing = "" if lengths else _missing(epochs is not None, samples is not None)
    return Recipe(images * devices * micro_batches, min(lengths, default=None), samples, missing)


def _missing(ends: bool, sized: bool) -> str:
    """Return what gives a fit without ``max_steps`` a length, as an imperative.

    Args:
        ends: ``max_epochs`` is set.
        sized: the number of training images is known.
    """
    if ends:
        return "add --train_samples N, or set trainer.max_steps"
    if sized:
        return "set trainer.max_epochs or trainer.max_steps"
    return "set trainer.max_steps, or trainer.max_epochs with --train_samples N"
