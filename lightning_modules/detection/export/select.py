"""Selection of detections for whole batches, without loops over images, so that a traced graph takes any batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from darkroom.lightning_modules.detection.boxes import clip
from darkroom.lightning_modules.detection.inference import Limits

# Groups of boxes are shifted apart for suppression, this many side by side: in a row, the shifts would cost precision.
_ABREAST = 16


class Selected(NamedTuple):
    """Detections of a batch, by descending score."""

    boxes: Tensor
    """float32 (N, 4), xyxy in pixels."""
    scores: Tensor
    """float32 (N,)."""
    labels: Tensor
    """int64 (N,), from 1."""
    image: Tensor
    """int64 (N,), index of the image in the batch."""


def extents(height: int, width: int) -> Tensor:
    """Return width, height, width, height as float32 (4,), also of symbolic sides."""
    sides = [torch.full((), float(side) if isinstance(side, int) else side) for side in (width, height)]
    return torch.stack(sides * 2).float()


def number_regions(boxes: Tensor) -> Tensor:
    """Return boxes (B, P, 4) of a batch as regions (B P, 5): the index of the image, and the box."""
    of_image = torch.arange(boxes.shape[0], device=boxes.device)[:, None, None].expand(-1, boxes.shape[1], 1)
    return torch.cat([of_image.to(boxes), boxes], -1).flatten(0, 1)


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Suppress boxes that overlap a better one of their group; return the indices of the others, by descending score.

    torchvision's ``batched_nms`` chooses its algorithm by the number of boxes, which is unknown in a traced graph.

    Args:
        boxes: float32 (N, 4).
        scores: (N,).
        groups: int64 (N,), from 0.
        threshold: IoU.
    """
    apart = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max() + 1
    low = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).min()
    shift = torch.stack([groups % _ABREAST, groups // _ABREAST] * 2, 1).to(boxes.dtype) * (apart - low)
    return nms(boxes + shift, scores, threshold)


def best_of_images(image: Tensor, images: int, count: int) -> Tensor:
    """Return a mask bool (N,) of the first ``count`` entries of each image.

    Args:
        image: int64 (N,), index of the image of each entry.
        images: number of images.
        count: most entries of an image.
    """
    of_image = image[:, None] == torch.arange(images, device=image.device)
    rank = of_image.long().cumsum(0).gather(1, image[:, None])[:, 0]
    return rank <= count


def select(boxes: Tensor, scores: Tensor, size: Sequence[int], limits: Limits) -> Selected:
    """Select the best candidates of every image of a batch, as ``select_detections`` does for one.

    Args:
        boxes: (B, P, 4), or (B, P, K, 4) where every class has its own.
        scores: (B, P, K) of the K object classes; the background has no column.
        size: height and width of the images.
        limits: thresholds and the largest number of detections of an image.
    """
    batch, _, classes = scores.shape
    image, candidate, label = (scores > limits.score_threshold).nonzero(as_tuple=True)
    chosen = boxes[image, candidate, label] if boxes.dim() == 4 else boxes[image, candidate]
    return select_candidates(
        Selected(chosen, scores[image, candidate, label], label + 1, image), batch, classes, size, limits
    )


def select_candidates(found: Selected, images: int, classes: int, size: Sequence[int], limits: Limits) -> Selected:
    """Clip candidates, drop thin ones, and select the best after suppression within each class of each image.

    Args:
        found: candidates above the score threshold, in any order.
        images: number of images.
        classes: K.
        size: height and width of the images.
        limits: threshold of the suppression and the largest number of detections of an image.
    """
    boxes = clip(found.boxes.float(), size)
    wide = (boxes[:, 2:] - boxes[:, :2] > 0.01).all(1)
    found = Selected(boxes[wide], found.scores.float()[wide], found.labels[wide], found.image[wide])
    groups = found.image * classes + found.labels - 1
    found = Selected(*(value[suppress(found.boxes, found.scores, groups, limits.nms_threshold)] for value in found))
    best = best_of_images(found.image, images, limits.max_detections)
    return Selected(*(value[best] for value in found))
