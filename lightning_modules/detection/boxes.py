"""Boxes: offsets to references, crops, samples for training, selection of detections. All xyxy in absolute pixels."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, roi_align

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.inference import Limits
from darkroom.lightning_modules.detection.types import Detection, Target

# Standard deviations of the offsets, by which Faster R-CNN divides its regression targets.
STDS = (0.1, 0.1, 0.2, 0.2)
# Largest growth of a box in one step: from 16 pixels to 1000.
_MOST = math.log(1000 / 16)


def _centres_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres and sizes (..., 2) of boxes (..., 4)."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sizes / 2, sizes


def encode(boxes: Tensor, references: Tensor, stds: Sequence[float] = STDS) -> Tensor:
    """Encode boxes as offsets (..., 4) from reference boxes, divided by ``stds``.

    The offsets are t_x, t_y, t_w, t_h of R-CNN (Girshick et al. 2014, equations 6-9).
    """
    (centres, sizes), (from_centres, from_sizes) = _centres_and_sizes(boxes), _centres_and_sizes(references)
    offsets = torch.cat([(centres - from_centres) / from_sizes, (sizes / from_sizes).log()], -1)
    return offsets / offsets.new_tensor(stds)


def decode(offsets: Tensor, references: Tensor, stds: Sequence[float] = STDS) -> Tensor:
    """Decode offsets from the references to boxes (..., 4) (equations 1-4): the inverse of ``encode``."""
    offsets, (centres, sizes) = offsets * offsets.new_tensor(stds), _centres_and_sizes(references)
    centres = centres + offsets[..., :2] * sizes
    half = sizes * offsets[..., 2:].clamp(max=_MOST).exp() / 2
    return torch.cat([centres - half, centres + half], -1)


def clip(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Clip boxes (..., 4) to an image of ``size`` (height, width)."""
    return clip_boxes_to_image(boxes, (size[0], size[1]))


def select_detections(boxes: Tensor, scores: Tensor, size: Sequence[int], limits: Limits) -> Detection:
    """Select the best of an image's candidates, after non-maximum suppression within each class.

    Args:
        boxes: (P, 4), or (P, K, 4) where every class has its own.
        scores: (P, K) of the K object classes; the background has no column.
        size: height and width of the image, to which boxes are clipped; those thinner than 0.01 pixels are dropped.
        limits: thresholds and the largest number of detections.
    """
    candidate, label = (scores > limits.score_threshold).nonzero(as_tuple=True)
    scores, boxes = scores[candidate, label].float(), boxes[candidate, label] if boxes.dim() == 3 else boxes[candidate]
    boxes = clip(boxes.float(), size)
    wide = (boxes[:, 2:] - boxes[:, :2] > 0.01).all(1)
    boxes, scores, labels = boxes[wide], scores[wide], label[wide] + 1
    best = batched_nms(boxes, scores, labels, limits.nms_threshold)[: limits.max_detections]
    return {"boxes": boxes[best], "scores": scores[best], "labels": labels[best]}


def keep_best(found: Detection, limits: Limits) -> Detection:
    """Select the best detections of an image, after non-maximum suppression within each class."""
    above = (found["scores"] > limits.score_threshold).nonzero().flatten()
    order = batched_nms(found["boxes"][above], found["scores"][above], found["labels"][above], limits.nms_threshold)
    best = above[order[: limits.max_detections]]
    kept: Detection = {"boxes": found["boxes"][best], "scores": found["scores"][best], "labels": found["labels"][best]}
    if "masks" in found:
        kept["masks"] = found["masks"][best]
    return kept


def warp(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop boxes (P, 4) from an image float (C, H, W) and warp each to a square: (P, C, size, size).

    Shrinking averages. Pixels beyond the image are 0, the mean colour of a normalized image.
    """
    return roi_align(image[None].float(), [boxes.float()], size, sampling_ratio=-1, aligned=True)


def add_context(boxes: Tensor, size: int, context: int) -> Tensor:
    """Enlarge boxes so that, warped to ``size``, each side has ``context`` pixels of surroundings (R-CNN, appendix A)."""
    centres, sizes = _centres_and_sizes(boxes)
    half = sizes / 2 * size / (size - 2 * context)
    return torch.cat([centres - half, centres + half], -1)


def require_proposals(batch: Mapping[str, Any], method: str) -> list[Tensor]:
    """Return ``batch["proposals"]``, a list of (P, 4).

    Raises:
        UsageError: the batch has none; names the method that needs them.
    """
    if "proposals" not in batch:
        raise UsageError(f"{method} needs proposals: set data.proposals, for example to SelectiveSearch")
    return batch["proposals"]


def match(boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU (P,) and index int64 (P,) of the true box that each box overlaps most; 0 and 0 without true boxes."""
    if not len(truth):
        return boxes.new_zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    return box_iou(boxes, truth).max(1)


def sample_rois(
    proposals: Tensor,
    target: Target,
    count: int,
    foreground: float = 0.25,
    foreground_iou: float = 0.5,
    background_iou: tuple[float, float] = (0.1, 0.5),
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample regions of one image for training (Girshick 2015, section 2.3): objects, filled up with background.

    The true boxes are added to the proposals. Where too few proposals lie in the background's range, others below it fill
    up the number, so that every image has regions to train on; the paper leaves them out.

    Args:
        proposals: (P, 4).
        target: ``boxes`` (N, 4) and ``labels`` (N,), from 1.
        count: most regions; there may be fewer.
        foreground: largest fraction of objects among them.
        foreground_iou: smallest IoU of an object with a true box.
        background_iou: IoU of background regions: at least the first, below the second.

    Returns:
        regions (R, 4), their labels (R,), 0 for background, and their true boxes (R, 4); a background region is its own.
    """
    regions = torch.cat([target["boxes"], proposals.to(target["boxes"])])
    iou, truth = match(regions, target["boxes"])
    objects = _choose(iou >= foreground_iou, round(count * foreground))
    near = _choose((iou >= background_iou[0]) & (iou < background_iou[1]), count - len(objects))
    far = _choose(iou < background_iou[0], count - len(objects) - len(near))
    chosen = torch.cat([objects, near, far])
    labels = torch.zeros(len(chosen), dtype=torch.long, device=regions.device)
    true_boxes = regions[chosen].clone()
    if len(objects):
        labels[: len(objects)] = target["labels"][truth[objects]]
        true_boxes[: len(objects)] = target["boxes"][truth[objects]]
    return regions[chosen], labels, true_boxes


@contextmanager
def fixed_seed(device: torch.device) -> Iterator[None]:
    """Seed random choices with 0 inside the context; restore the generators' states afterwards."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed devices that are not restored
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        yield


def _choose(mask: Tensor, count: int) -> Tensor:
    """Choose at most ``count`` random entries that are true; return their indices."""
    indices = mask.nonzero().flatten()
    return indices[torch.randperm(len(indices), device=mask.device)[:count]]
