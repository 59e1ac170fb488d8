"""Augmentation of images with objects: what is dropped with a box, and what stays."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from darkroom.errors import UsageError

_CONTAINERS = v2.Compose | v2.RandomApply | v2.RandomChoice | v2.RandomOrder


def contains(transform: Any, kind: type[v2.Transform] | tuple[type[v2.Transform], ...]) -> bool:
    """Return True if a transform, or a transform inside it, is of a kind."""
    if isinstance(transform, _CONTAINERS):
        return any(contains(part, kind) for part in transform.transforms)
    return isinstance(transform, kind)


def select_objects(target: dict[str, Any], keep: Tensor) -> dict[str, Any]:
    """Return a target with the objects where ``keep``, bool (N,), is True: every tensor of it has a row per object.

    Raises:
        UsageError: a tensor has another number of rows, since a transform has dropped boxes alone.
    """
    rows = {name: value for name, value in target.items() if isinstance(value, Tensor) and value.ndim}
    if wrong := {name: len(value) for name, value in rows.items() if len(value) != len(keep)}:
        raise UsageError(
            f"data.augment: a transform left {len(keep)} boxes, but {wrong}; one that drops boxes must drop these rows of "
            "the target too"
        )
    return target | {name: _rewrap(value[keep], value) for name, value in rows.items()}


def _rewrap(value: Tensor, like: Tensor) -> Tensor:
    return tv_tensors.wrap(value, like=like) if isinstance(like, tv_tensors.TVTensor) else value


class SanitizeObjects(v2.Transform):
    """Drop invalid boxes as ``v2.SanitizeBoundingBoxes`` does, with everything that belongs to them.

    torchvision's own transform finds neither the labels of a target within a sample nor flags and areas, and takes
    proposals for objects. Proposals are checked here by themselves.

    Args:
        min_size: least side of a box in pixels.
        min_area: least area of a box in pixels.
    """

    def __init__(self, min_size: float = 1.0, min_area: float = 1.0) -> None:
        super().__init__()
        self.min_size, self.min_area = min_size, min_area

    def _valid(self, boxes: Tensor) -> Tensor:
        _, valid = v2.functional.sanitize_bounding_boxes(boxes, min_size=self.min_size, min_area=self.min_area)
        return valid

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        sample = sample | {"target": select_objects(sample["target"], self._valid(sample["target"]["boxes"]))}
        if "proposals" not in sample:
            return sample
        boxes = sample["proposals"]
        return sample | {"proposals": _rewrap(boxes[self._valid(boxes)], boxes)}


def keep_in_step(transform: v2.Transform) -> v2.Transform:
    """Return a transform of augmentation that keeps boxes and what belongs to them in step.

    ``SanitizeBoundingBoxes`` becomes ``SanitizeObjects``. ``ToPureTensor`` becomes the identity: transforms after it would
    change the image, but not the boxes.
    """
    if not contains(transform, (v2.SanitizeBoundingBoxes, v2.ToPureTensor)):
        return transform
    if isinstance(transform, v2.SanitizeBoundingBoxes):
        return SanitizeObjects(transform.min_size, transform.min_area)
    if isinstance(transform, v2.ToPureTensor):
        return v2.Identity()
    transform = deepcopy(transform)
    parts: Sequence[v2.Transform] = transform.transforms
    for index, part in enumerate(parts):
        transform.transforms[index] = keep_in_step(part)
    return transform


def _corners(boxes: Tensor, image: Any) -> Tensor:
    """Return boxes of any format as float (N, 4) xyxy within the image.

    Raises:
        UsageError: a transform has converted the boxes to integers.
    """
    if not boxes.is_floating_point():
        raise UsageError(
            f"data.augment: a transform made the boxes {boxes.dtype}, which must stay float; remove ConvertImageDtype and "
            "similar transforms"
        )
    size = boxes.canvas_size if isinstance(boxes, tv_tensors.BoundingBoxes) else v2.functional.get_size(image)
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        boxes = v2.functional.convert_bounding_box_format(boxes, new_format="XYXY")
    limits = torch.tensor([size[1], size[0]] * 2, dtype=boxes.dtype)
    return boxes.as_subclass(Tensor).clamp(min=torch.zeros_like(limits), max=limits)


class KeepVisible(v2.Transform):
    """Drop the objects that a crop removed: boxes thinner than ``min_side`` pixels, masks without a pixel.

    Boxes become plain tensors, xyxy, clipped to the image.
    """

    def __init__(self, min_side: float = 1.0) -> None:
        super().__init__()
        self.min_side = min_side

    def _visible(self, boxes: Tensor) -> Tensor:
        return (boxes[:, 2:] - boxes[:, :2] >= self.min_side).all(1)

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        target = sample["target"] | {"boxes": _corners(sample["target"]["boxes"], sample["image"])}
        keep = self._visible(target["boxes"])
        if "masks" in target and len(target["masks"]) == len(keep):
            # Transforms fill masks beyond the image with their own values, which belong to none of the objects.
            target |= {"masks": (target["masks"] == 1).to(torch.uint8)}
            keep &= target["masks"].flatten(1).any(1).bool()  # any() of bytes gives bytes
        sample = sample | {"target": select_objects(target, keep)}
        if "proposals" not in sample:
            return sample
        boxes = _corners(sample["proposals"], sample["image"])
        return sample | {"proposals": boxes[self._visible(boxes)]}
