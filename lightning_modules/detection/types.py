"""Dicts that detectors take and return, one per image."""

from typing import TypedDict

from torch import Tensor
from typing_extensions import NotRequired


class Target(TypedDict):
    """Objects of an image."""

    boxes: Tensor
    """float32 (N, 4), xyxy in pixels."""
    labels: Tensor
    """int64 (N,), from 1."""
    masks: NotRequired[Tensor]
    """bool (N, H, W)."""
    difficult: NotRequired[Tensor]
    """bool (N,)."""
    iscrowd: NotRequired[Tensor]
    """bool (N,)."""
    area: NotRequired[Tensor]
    """float32 (N,), in pixels of the image: that of the annotation file."""


class Detection(TypedDict):
    """Detections of an image, by descending score."""

    boxes: Tensor
    """float32 (M, 4), xyxy in pixels."""
    scores: Tensor
    """float32 (M,), in [0, 1]."""
    labels: Tensor
    """int64 (M,), from 1."""
    masks: NotRequired[Tensor]
    """bool (M, H, W)."""


Detections = list[Detection]
