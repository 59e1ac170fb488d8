"""Scores: when pictures are drawn to be judged, and which real ones they are compared with."""

from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, distributed

from darkroom.errors import UsageError


class Scores:
    """Base of what compares pictures that a module draws with real ones, after a validation and in test.

    A module calls ``prepare`` in ``setup``, ``update`` with every batch that is wanted, and ``compute`` at the end of the
    epoch. Real pictures are seen once for all epochs. What is new adds ``look`` and ``compare``.

    Args:
        num_samples: pictures drawn, over all ranks, and real ones: the first of the set, or all it has.
        batch_size: pictures drawn at once on each rank.
        every_n_validations: compute only after a fit's first validation and every n-th from there on; always in the other
            commands.
        seed: decides the noise of what is drawn.

    Raises:
        UsageError: a number out of its range.
    """

    least = 1  # pictures of each sort that can be compared

    def __init__(self, num_samples: int, batch_size: int, every_n_validations: int, seed: int) -> None:
        least = {"num_samples": (num_samples, self.least), "batch_size": (batch_size, 1), "seed": (seed, 0)}
        for name, (value, low) in (least | {"every_n_validations": (every_n_validations, 1)}).items():
            if value < low:
                raise UsageError(f"model.scores.{name} is {value}; it must be at least {low}")
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.every_n_validations, self.validations = every_n_validations, 0
        self._rank, self._world_size, self._fitting = 0, 1, True
        self._seen: dict[str, int] = {}  # real pictures on this rank, of each stage
        self._complete: set[str] = set()  # stages whose real pictures are all seen

    # --- what is new adds ---------------------------------------------------------------------------------------------

    def look(self, stage: str, images: Tensor, batch: dict[str, Any]) -> None:
        """Adds real pictures, uint8 (B, C, H, W), with the other entries of their batch."""
        raise NotImplementedError

    def compare(self, stage: str, module: LightningModule) -> dict[str, float]:
        """Draws pictures and judges them; the same values on all ranks."""
        raise NotImplementedError

    # --- what a module calls ------------------------------------------------------------------------------------------

    def prepare(self, module: LightningModule) -> None:
        """Makes networks ready that judge, on all ranks; forgets real pictures seen before. Called in ``setup``."""
        trainer = module.trainer
        self._rank, self._world_size = trainer.global_rank, trainer.world_size
        self._fitting = trainer.state.fn in (None, "fit")
        self._seen, self._complete = {}, set()

    def wants(self, stage: str) -> bool:
        """Whether ``update`` still takes real pictures of a stage, or is given them for nothing."""
        return self._room(stage) > 0

    def update(self, stage: str, images: Tensor, batch: dict[str, Any]) -> None:
        """Adds real pictures until there are enough; later ones, and those of later epochs, cost nothing.

        Args:
            stage: ``val`` or ``test``.
            images: uint8 (B, C, H, W).
            batch: what else there is of them: ``label``, ``caption``, ``attributes``, ``held_out``.
        """
        room = self._room(stage)
        if room > 0:
            self._seen[stage] = self._seen.get(stage, 0) + len(images[:room])
            self.look(stage, images[:room], {key: value[:room] for key, value in batch.items()})

    def compute(self, stage: str, module: LightningModule) -> dict[str, float]:
        """Draws pictures and judges them; the same values on all ranks, {} where this validation is left out.

        Args:
            stage: ``val`` or ``test``.
            module: draws, by ``sample``, and has ``to_uint8``.

        Raises:
            UsageError: too few real pictures.
        """
        self._complete.add(stage)
        if stage == "val" and self._fitting:
            self.validations += 1
            if (self.validations - 1) % self.every_n_validations:
                return {}
        real = int(summed(torch.tensor(float(self._seen.get(stage, 0)), device=module.device)))
        if real < self.least:
            raise UsageError(
                f"model.scores compares with pictures of the {stage} split, at least {self.least}, but saw {real}; give "
                "more, or set model.scores to null"
            )
        return self.compare(stage, module)

    def _room(self, stage: str) -> int:
        """How many real pictures of a stage this rank still takes."""
        share = share_of_rank(self.num_samples, self._rank, self._world_size)
        return 0 if stage in self._complete else share - self._seen.get(stage, 0)

    def _parts(self, count: int) -> list[slice]:
        """``count`` pictures of this rank in parts of ``batch_size``."""
        return [slice(start, min(start + self.batch_size, count)) for start in range(0, count, self.batch_size)]

    def _generators(self, part: slice) -> list[torch.Generator]:
        """A generator for each of this rank's pictures in a part, a function of the seed and the picture's number in the
        whole set: so ranks and batches have no say.
        """
        return [generator_of(self.seed, self._rank + i * self._world_size) for i in range(part.start, part.stop)]


def share_of_rank(count: int, rank: int, world_size: int) -> int:
    """How many of ``count`` things are a rank's when they are dealt in turn."""
    return count // world_size + (rank < count % world_size)


def summed(values: Tensor) -> Tensor:
    """The sum of all ranks' values."""
    values = values.clone()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def generator_of(*key: int) -> torch.Generator:
    """A generator that the key decides."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
