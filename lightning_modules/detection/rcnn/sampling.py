"""Sampling of regions for the fine-tuning of R-CNN."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.lightning_modules.detection.boxes import match
from darkroom.lightning_modules.detection.types import Target


def sample_windows(
    proposals: Sequence[Tensor], targets: Sequence[Target], count: int = 128
) -> tuple[list[Tensor], Tensor]:
    """Sample regions of a batch for fine-tuning, a quarter of them objects (Girshick et al. 2014, section 2.3).

    Objects have an IoU of at least .5 with a true box; the true boxes are among them. Sampled uniformly over all images,
    with repetition as in the authors' code, so a quarter are objects however few there are.

    Args:
        proposals: per image (P, 4).
        targets: per image ``boxes`` (N, 4) and ``labels`` (N,), from 1.
        count: number of regions; objects or background that the batch lacks are left out.

    Returns:
        Regions of each image (R_i, 4), and the labels (R,) of all regions, 0 for background.
    """
    regions, labels = [], []
    for boxes, target in zip(proposals, targets, strict=True):
        regions.append(torch.cat([target["boxes"], boxes.to(target["boxes"])]))
        iou, truth = match(regions[-1], target["boxes"])
        labels.append(F.pad(target["labels"], (0, 1))[truth].where(iou >= 0.5, 0))  # padded for images without objects
    counts = [len(boxes) for boxes in regions]
    every, label = torch.cat(regions), torch.cat(labels)
    objects, background = (kind.nonzero().flatten() for kind in (label > 0, label == 0))
    quarter = round(count / 4) if len(objects) else 0
    chosen = torch.cat([_sample(objects, quarter), _sample(background, count - quarter)]).sort().values
    image = torch.arange(len(counts), device=chosen.device).repeat_interleave(
        torch.tensor(counts, device=chosen.device), output_size=len(every)
    )
    return list(every[chosen].split(torch.bincount(image[chosen], minlength=len(counts)).tolist())), label[chosen]


def _sample(indices: Tensor, count: int) -> Tensor:
    """Sample ``count`` of the indices with repetition, none if there are none."""
    places = torch.randint(max(1, len(indices)), (count if len(indices) else 0,), device=indices.device)
    return indices[places]
