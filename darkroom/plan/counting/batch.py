"""A batch of the shapes that a config's data deliver, without its files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.captions.base import CaptionDataModule
from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.shapes import ShapesCaptions
from darkroom.protocols.data import AttributeData

_SIZES = {"VOCDetection": (375, 500), "CocoDetection": (480, 640), "PennFudan": (400, 480)}
_OBJECTS = {"VOCDetection": 3, "CocoDetection": 7, "PennFudan": 3, "ShapesDetection": 3}


@dataclass(frozen=True)
class BatchShape:
    """Sizes of a batch that the config's data alone do not state.

    Args:
        images: number of images; None: ``data.batch_size``.
        image_size: height and width of images that have no common size (detection); None: usual ones of the data set.
        objects: boxes per image.
        proposals: region proposals per image, for methods that take them.
        words: words of a caption, or tokens of a frozen text encoder.
    """

    images: int | None = None
    image_size: tuple[int, int] | None = None
    objects: int | None = None
    proposals: int = 2000
    words: int = 32


def detection_size(data: DetectionDataModule, shape: BatchShape) -> tuple[int, int]:
    """Return height and width of the images of detection data: those given, those of the config, or usual ones."""
    if shape.image_size is not None:
        return shape.image_size
    height, width = data.image_shape[1:]
    if height and width:
        return height, width
    height, width = _SIZES.get(type(data).__name__, (480, 640))
    scale = min(1.0, data.max_side / max(height, width)) if data.max_side else 1.0
    return round(scale * height), round(scale * width)


def random_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return boxes float32 (count, 4), xyxy in pixels, with sides of a tenth to a half of the image's."""
    size = torch.tensor([width, height])
    sides = (0.1 + 0.4 * torch.rand(count, 2, generator=generator)) * size
    corner = torch.rand(count, 2, generator=generator) * (size - sides)
    return torch.cat([corner, corner + sides], 1)


def make_batch(
    data: VisionDataModule, shape: BatchShape, num_classes: int, zeros: Callable[..., Tensor] = torch.zeros
) -> dict[str, Any]:
    """Return a training batch of the shapes of a datamodule, as its modules get it (normalized images, float32).

    Args:
        data: the datamodule; its files are not read.
        shape: sizes that it does not state.
        num_classes: of the labels.
        zeros: makes a tensor.
    """
    images = shape.images or data.batch_size
    if isinstance(data, DetectionDataModule):
        return _detection_batch(data, shape, images, num_classes, zeros)
    channels, height, width = data.image_shape
    integers = {"dtype": torch.int64}
    batch: dict[str, Any] = {
        "image": zeros(images, channels, height, width),
        "mask": zeros(images, height, width, **integers),
        "label": zeros(images, **integers),
        "border": zeros(images, height, width),
    }
    if isinstance(data, CaptionDataModule | ShapesCaptions):
        batch["caption"] = [" ".join([data.words[0]] * shape.words)] * images
    if isinstance(data, AttributeData):
        batch["attributes"] = zeros(images, len(data.attribute_sizes), **integers)
    return batch


def _detection_batch(
    data: DetectionDataModule, shape: BatchShape, images: int, num_classes: int, zeros: Callable[..., Tensor]
) -> dict[str, Any]:
    height, width = detection_size(data, shape)
    objects = shape.objects or _OBJECTS.get(type(data).__name__, 5)
    generator = torch.Generator().manual_seed(0)
    targets = []
    for number in range(images):
        target: dict[str, Any] = {
            "boxes": random_boxes(objects, height, width, generator),
            "labels": 1 + torch.arange(objects) % max(1, num_classes),
            "image_id": number,
        }
        if data.masks:
            target["masks"] = torch.zeros(objects, height, width, dtype=torch.uint8)
            for mask, (x0, y0, x1, y1) in zip(target["masks"], target["boxes"].long().tolist(), strict=True):
                mask[y0:y1, x0:x1] = 1
        targets.append(target)
    batch: dict[str, Any] = {"image": [zeros(3, height, width) for _ in range(images)], "target": targets}
    if data.proposals is not None:
        batch["proposals"] = [random_boxes(shape.proposals, height, width, generator) for _ in range(images)]
    return batch
