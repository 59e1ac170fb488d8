"""Interface between metrics that judge generated images and callbacks that record them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class JudgedSamples:
    """Generated images of captions, with the attributes that a judge predicted.

    Args:
        numbers: index of each caption in the data set.
        seeds: seed of each image's noise.
        captions: B of them.
        images: uint8 (B, C, H, W).
        stated: attributes of the captions, int64 (B, A), -1 where a caption states none.
        judged: attributes of the images, int64 (B, A).
        held_out: bool (B,), True for captions with objects that are held out of training.
        form: index of each caption's form, int64 (B,).
    """

    numbers: Sequence[int]
    seeds: Sequence[int]
    captions: Sequence[str]
    images: Tensor
    stated: Tensor
    judged: Tensor
    held_out: Tensor
    form: Tensor


@runtime_checkable
class JudgesSamples(Protocol):
    """Metrics that judge generated images, and call ``on_judged`` after each batch of them, on every rank."""

    accuracy: bool
    """False: images are not judged."""

    on_judged: Callable[[JudgedSamples], None] | None


@runtime_checkable
class ScoredModel(Protocol):
    """Module that has metrics of generated images."""

    @property
    def scores(self) -> object:
        """Metrics; None without any."""
        ...
