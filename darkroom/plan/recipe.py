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
    """

    batch: int
    steps: int | None
    samples: int | None

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

    An epoch has all training images once, in batches of all devices; ``limit_train_batches`` shortens it.

    Args:
        trainer: options of the Trainer.
        images: of a batch on one device.
        devices: number of them.
        samples: training images; None: unknown.
    """
    micro_batches = accumulated(trainer)
    max_steps, max_epochs = trainer.get("max_steps", -1), trainer.get("max_epochs")
    lengths = [max_steps] if max_steps is not None and max_steps >= 0 else []
    if samples is not None and max_epochs is not None and max_epochs >= 0:
        batches = ceil(samples / (images * devices))
        limit = trainer.get("limit_train_batches")
        if isinstance(limit, int):
            batches = min(batches, limit)
        elif isinstance(limit, float):
            batches = int(limit * batches)
        lengths.append(max_epochs * ceil(batches / micro_batches))
    return Recipe(images * devices * micro_batches, min(lengths, default=None), samples)
