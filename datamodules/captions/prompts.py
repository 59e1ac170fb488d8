"""Prompts: labels and captions to sample images for from a trained model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn

from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.datasets import WholeBatchDataset
from darkroom.datamodules.loading import KeyedDataset
from darkroom.errors import UsageError


class PromptList(WholeBatchDataset):
    """Conditions of the images to sample: ``{"seed": int64, "index": int64[, "label": int64][, "caption": str]}``.

    Labels and captions are used in turn, and repeat from the start.
    """

    def __init__(self, count: int, labels: Sequence[int] | None, captions: Sequence[str] | None, seed: int) -> None:
        self.count, self.labels, self.captions, self.seed = count, labels, captions, seed

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        states = [np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)[0] for index in indices]
        batch: dict[str, Any] = {
            "seed": torch.tensor([int(state >> 1) for state in states]),
            "index": torch.tensor(indices),
        }
        if self.labels is not None:
            batch["label"] = torch.tensor([self.labels[index % len(self.labels)] for index in indices])
        if self.captions is not None:
            batch["caption"] = [self.captions[index % len(self.captions)] for index in indices]
        return batch


class Prompts(VisionDataModule):
    """Prompts for ``darkroom predict`` with a trained generative model: number of images, classes and captions.

    ``darkroom predict --config runs/vae/0/config.yaml --data Prompts --data.count 16 --ckpt_path best``

    Every image has its own seed, a function of (seed, index). So the samples do not depend on batch size and number of
    ranks, and a larger count starts with the same images. The batches have no images.

    Args:
        count: number of images; None: one for each label or caption (of the longer list), or 16 without either.
        labels: classes to sample, from 0, one image each, repeated until ``count``.
        captions: texts to sample images for, likewise.
        seed: of all images.
        batch_size: images sampled at a time, per rank.
    """

    image_shape: None = None  # type: ignore[assignment]  # the model has the shape of its training
    num_classes: None = None  # type: ignore[assignment]  # likewise

    def __init__(
        self,
        count: int | None = None,
        labels: list[int] | None = None,
        captions: list[str] | None = None,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=0, seed=seed, mean=(0.5,), std=(0.5,))
        if seed < 0:
            raise UsageError(f"data.seed must be at least 0, got {seed}")
        for name, given in {"labels": labels, "captions": captions}.items():
            if given is not None and not given:
                raise UsageError(f"data.{name} is empty; it must have one entry at least, or be left out")
        if labels and min(labels) < 0:
            raise UsageError(f"data.labels must be at least 0, got {min(labels)}")
        if count is None:
            count = max(len(labels or ()), len(captions or ())) or 16
        if count < 1:
            raise UsageError(f"data.count must be at least 1, got {count}")
        self.prompts = PromptList(count, labels, captions, seed)

    def setup(self, stage: str) -> None:
        if stage != "predict":
            raise UsageError(
                f"data: Prompts has no images and works with predict alone, not with {TrainerFn(stage).value}; set data to "
                "a data set"
            )
        self._datasets["predict"] = KeyedDataset(self.prompts, seed=self.seed)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int = 0) -> dict[str, Any]:
        """Return the batch unchanged, since it has no images."""
        return batch
