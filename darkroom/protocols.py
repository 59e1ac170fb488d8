"""Interfaces at which the parts of Darkroom meet: what one part may use of another that it never imports."""

from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor


@runtime_checkable
class SegmentationModel(Protocol):
    """What ``Inference`` needs of a segmentation model."""

    num_classes: int

    def __call__(self, image: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K, H, W)."""
        ...

    def logits_within(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute logits (B, K, *size) of the area within the network's margin."""
        ...


@runtime_checkable
class ProposalMethod(Protocol):
    """What a cache of region proposals needs of the method that makes them."""

    by_shape: bool
    """All images of one shape have the same proposals."""
    limit: int | None
    """Most boxes that are handed out for an image; None: all."""

    @property
    def key(self) -> str:
        """Everything that ``propose`` depends on besides the image."""
        ...

    def propose(self, image: np.ndarray) -> np.ndarray:
        """Propose boxes float32 (P, 4), xyxy in pixels, for an image uint8 (H, W, 3), RGB."""
        ...


@runtime_checkable
class DescribesBatches(Protocol):
    """A datamodule that can name the samples of a training batch."""

    def describe_batch(self, epoch: int, batch_idx: int) -> str:
        """Name the samples of a training batch of this rank: their files, or their indices."""
        ...
