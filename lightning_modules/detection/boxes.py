"""Boxes: offsets to references, crops, samples to train on, and the best of many. All xyxy in absolute pixels."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, roi_align

from darkroom.errors import UsageError

# Deviations of the offsets that Faster R-CNN's regression targets are divided by.
STDS = (0.1, 0.1, 0.2, 0.2)
# No box grows more than this in one step: from 16 pixels to 1000.
_MOST = math.log(1000 / 16)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes (..., 2) of boxes (..., 4)."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sizes / 2, sizes


def encode(boxes: Tensor, references: Tensor, stds: Sequence[float] = STDS) -> Tensor:
    """Offsets (..., 4) from reference boxes to boxes: t_x, t_y, t_w, t_h of R-CNN (Girshick et al. 2014, equations 6-9),
    divided by ``stds``."""
    (centres, sizes), (from_centres, from_sizes) = _centred(boxes), _centred(references)
    offsets = torch.cat([(centres - from_centres) / from_sizes, (sizes / from_sizes).log()], -1)
    return offsets / offsets.new_tensor(stds)


def decode(offsets: Tensor, references: Tensor, stds: Sequence[float] = STDS) -> Tensor:
    """Boxes (..., 4) that lie at these offsets from the references (equations 1-4): undoes ``encode``."""
    offsets, (centres, sizes) = offsets * offsets.new_tensor(stds), _centred(references)
    centres = centres + offsets[..., :2] * sizes
    half = sizes * offsets[..., 2:].clamp(max=_MOST).exp() / 2
    return torch.cat([centres - half, centres + half], -1)


def clip(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes (..., 4) cut at the borders of an image of ``size`` (height, width)."""
    return clip_boxes_to_image(boxes, (size[0], size[1]))


def detections(
    boxes: Tensor,
    scores: Tensor,
    size: Sequence[int],
    score_threshold: float,
    nms_threshold: float,
    max_detections: int = 100,
) -> dict[str, Tensor]:
    """The best of one image's candidates, after non-maximum suppression within each class.

    Args:
        boxes: (P, 4), or (P, K, 4) where every class has its own.
        scores: (P, K) of the K object classes; the background has no column.
        size: height and width of the image, at which boxes are cut; one thinner than a hundredth of a pixel is dropped.
        score_threshold: candidates must score more.
        nms_threshold: of two boxes of a class with a larger IoU the worse one is dropped.
        max_detections: how many remain at most.

    Returns:
        ``boxes`` (M, 4), ``scores`` (M,), descending, and ``labels`` (M,), from 1.
    """
    candidate, label = (scores > score_threshold).nonzero(as_tuple=True)
    scores, boxes = scores[candidate, label].float(), boxes[candidate, label] if boxes.dim() == 3 else boxes[candidate]
    boxes = clip(boxes.float(), size)
    wide = (boxes[:, 2:] - boxes[:, :2] > 0.01).all(1)
    boxes, scores, labels = boxes[wide], scores[wide], label[wide] + 1
    best = batched_nms(boxes, scores, labels, nms_threshold)[:max_detections]
    return {"boxes": boxes[best], "scores": scores[best], "labels": labels[best]}


def warp(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crops (P, C, size, size) of an image float (C, H, W), each box (P, 4) warped to a square whatever its aspect.

    Averages where it shrinks. Beyond the image it is 0: the mean colour, where the image is normalised.
    """
    return roi_align(image[None].float(), [boxes.float()], size, sampling_ratio=-1, aligned=True)


def with_context(boxes: Tensor, size: int, context: int) -> Tensor:
    """Boxes grown so that, warped to ``size``, ``context`` pixels on each side are surroundings (R-CNN, appendix A)."""
    centres, sizes = _centred(boxes)
    half = sizes / 2 * size / (size - 2 * context)
    return torch.cat([centres - half, centres + half], -1)


def required_proposals(batch: Mapping[str, Any], technique: str) -> list[Tensor]:
    """``batch["proposals"]``, a list of (P, 4); where there is none the technique says how to get some."""
    if "proposals" not in batch:
        raise UsageError(f"{technique} needs proposals: set data.proposals, for example to SelectiveSearch")
    return batch["proposals"]


def match(boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """IoU (P,) of every box with the truth it overlaps most, and which one that is, int64 (P,); 0 and 0 without truth."""
    if not len(truth):
        return boxes.new_zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    return box_iou(boxes, truth).max(1)


def sample_rois(
    proposals: Tensor,
    target: Mapping[str, Tensor],
    count: int,
    foreground: float = 0.25,
    foreground_iou: float = 0.5,
    background_iou: tuple[float, float] = (0.1, 0.5),
) -> tuple[Tensor, Tensor, Tensor]:
    """Regions of one image to train on (Girshick 2015, section 2.3): objects, filled up with background.

    The true boxes are among the proposals. Where too few proposals lie in the background's range, others below it fill up
    the number, so that every image has something to learn from; the paper goes without.

    Args:
        proposals: (P, 4).
        target: ``boxes`` (N, 4) and ``labels`` (N,), from 1.
        count: how many regions; fewer if there are not so many.
        foreground: part of them that are objects, at most.
        foreground_iou: IoU with a true box from which on a region is an object.
        background_iou: IoU of background regions, from the first, below the second.

    Returns:
        regions (R, 4), their labels (R,), 0 for background, and the true box (R, 4) each one belongs to, itself if none.
    """
    regions = torch.cat([target["boxes"], proposals.to(target["boxes"])])
    iou, truth = match(regions, target["boxes"])
    objects = _some(iou >= foreground_iou, round(count * foreground))
    near = _some((iou >= background_iou[0]) & (iou < background_iou[1]), count - len(objects))
    far = _some(iou < background_iou[0], count - len(objects) - len(near))
    chosen = torch.cat([objects, near, far])
    labels = torch.zeros(len(chosen), dtype=torch.long, device=regions.device)
    true_boxes = regions[chosen].clone()
    if len(objects):
        labels[: len(objects)] = target["labels"][truth[objects]]
        true_boxes[: len(objects)] = target["boxes"][truth[objects]]
    return regions[chosen], labels, true_boxes


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within, random choices are the same every time; afterwards the generators are where they were before."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would reach devices that nobody restores
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        yield


def _some(mask: Tensor, count: int) -> Tensor:
    """Indices of at most ``count`` random entries that are true."""
    indices = mask.nonzero().flatten()
    return indices[torch.randperm(len(indices), device=mask.device)[:count]]
