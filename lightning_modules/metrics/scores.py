"""Scores: base of the metrics that compare samples of a module with real images."""

from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, distributed

from darkroom.errors import UsageError


class Scores:
    """Base of the metrics that compare samples of a module with real images, after a validation and in test.

    A module calls ``prepare`` in ``setup``, ``update`` with batches while ``needs_more`` is True, and ``compute`` at the
    end of the epoch. Real images are read once for all epochs. Subclasses define ``add_real`` and ``score_samples``.

    Args:
        num_samples: number of samples, over all ranks, and of real images: the first of the set, or all it has.
        batch_size: images sampled at once on each rank.
        every_n_validations: compute only after a fit's first validation and every n-th from there on; always in the other
            commands.
        seed: determines the noise of the samples.

    Raises:
        UsageError: a number is out of its range.
    """

    least = 1  # smallest number of real images

    def __init__(self, num_samples: int, batch_size: int, every_n_validations: int, seed: int) -> None:
        least = {"num_samples": (num_samples, self.least), "batch_size": (batch_size, 1), "seed": (seed, 0)}
        for name, (value, low) in (least | {"every_n_validations": (every_n_validations, 1)}).items():
            if value < low:
                raise UsageError(f"model.scores.{name} must be at least {low}, got {value}")
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.every_n_validations, self.validations = every_n_validations, 0
        self._rank, self._world_size, self._fitting = 0, 1, True
        self._seen: dict[str, int] = {}  # number of real images on this rank, by stage
        self._complete: set[str] = set()  # stages whose real images have all been added

    # --- defined by a subclass ----------------------------------------------------------------------------------------

    def add_real(self, stage: str, images: Tensor, batch: dict[str, Any]) -> None:
        """Add real images, uint8 (B, C, H, W), with the other entries of their batch."""
        raise NotImplementedError

    def score_samples(self, stage: str, module: Any) -> dict[str, float]:
        """Sample images of a module and compute their metrics, the same on all ranks."""
        raise NotImplementedError

    # --- called by a module -------------------------------------------------------------------------------------------

    def prepare(self, module: LightningModule) -> None:
        """Load or train networks on all ranks, and reset real images. Called in ``setup``."""
        trainer = module.trainer
        self._rank, self._world_size = trainer.global_rank, trainer.world_size
        self._fitting = trainer.state.fn in (None, "fit")
        self._seen, self._complete = {}, set()

    def needs_more(self, stage: str) -> bool:
        """Return whether more real images are needed for this stage."""
        return self._room(stage) > 0

    def update(self, stage: str, images: Tensor, batch: dict[str, Any]) -> None:
        """Add real images until there are enough; others are ignored.

        Args:
            stage: ``val`` or ``test``.
            images: uint8 (B, C, H, W).
            batch: their other entries: ``label``, ``caption``, ``attributes``, ``held_out``.
        """
        room = self._room(stage)
        if room > 0:
            self._seen[stage] = self._seen.get(stage, 0) + len(images[:room])
            self.add_real(stage, images[:room], {key: value[:room] for key, value in batch.items()})

    def compute(self, stage: str, module: Any) -> dict[str, float]:
        """Sample images and compute their metrics, the same on all ranks; {} if this validation is skipped.

        Args:
            stage: ``val`` or ``test``.
            module: has ``sample`` and ``to_uint8``; see the Protocols of ``score_samples``.

        Raises:
            UsageError: too few real images.
        """
        self._complete.add(stage)
        if stage == "val" and self._fitting:
            self.validations += 1
            if (self.validations - 1) % self.every_n_validations:
                return {}
        real = int(sum_over_ranks(torch.tensor(float(self._seen.get(stage, 0)), device=module.device)))
        if real < self.least:
            raise UsageError(
                f"model.scores needs at least {self.least} real images of the {stage} split, got {real}; give more, or set "
                "model.scores to null"
            )
        return self.score_samples(stage, module)

    def _room(self, stage: str) -> int:
        """Return how many more real images of a stage this rank needs."""
        share = share_of_rank(self.num_samples, self._rank, self._world_size)
        return 0 if stage in self._complete else share - self._seen.get(stage, 0)

    def _parts(self, count: int) -> list[slice]:
        """Split ``count`` images of this rank into slices of ``batch_size``."""
        return [slice(start, min(start + self.batch_size, count)) for start in range(0, count, self.batch_size)]

    def _numbers(self, part: slice) -> list[int]:
        """Return the indices in the set of this rank's images in a slice."""
        return [self._rank + i * self._world_size for i in range(part.start, part.stop)]

    def _generators(self, part: slice) -> list[torch.Generator]:
        """Return a generator for each of this rank's images in a slice. It is a function of the seed and of the image's
        index in the set, independent of batch size and world size.
        """
        return [generator_of(self.seed, number) for number in self._numbers(part)]


def share_of_rank(count: int, rank: int, world_size: int) -> int:
    """Return how many of ``count`` items a rank has when they are assigned in turn."""
    return count // world_size + (rank < count % world_size)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum values over all ranks."""
    values = values.clone()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def generator_of(*key: int) -> torch.Generator:
    """Return a generator that is a function of the key."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
