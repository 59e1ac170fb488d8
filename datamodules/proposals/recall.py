"""Recall of region proposals by the number of boxes, and its table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou


@dataclass(frozen=True)
class Recall:
    """Recall of the first boxes of every image.

    Args:
        count: maximum number of boxes of an image that count.
        boxes: mean number of boxes of an image.
        recall: by IoU threshold, the fraction of the objects that some box overlaps by at least that IoU.
        best_overlap: mean over objects of the highest IoU with a box.
    """

    count: int
    boxes: float
    recall: dict[float, float]
    best_overlap: float


def recall(
    proposals: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    counts: Sequence[int] = (10, 50, 100, 300, 1000, 2000),
    thresholds: Sequence[float] = (0.5, 0.7),
) -> list[Recall]:
    """Compute recall by the number of boxes (Hosang et al. 2016), over the objects of all images together.

    Args:
        proposals: per image (P, 4) xyxy, the best first.
        truths: per image (N, 4) xyxy; N may be 0.
        counts: numbers of first boxes of an image that count; each gives a row of the table.
        thresholds: IoU from which an object counts as found.
    """
    best: list[Tensor] = []  # per image (N, counts): the highest IoU so far
    for boxes, objects in zip(proposals, truths, strict=True):
        iou = box_iou(*(torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in (objects, boxes)))
        so_far = torch.cat([iou.new_zeros(len(iou), 1), iou], 1).cummax(1).values
        best.append(so_far[:, [min(count, len(boxes)) for count in counts]])
    overlaps = torch.cat(best)
    rows = []
    for count, overlap in zip(counts, overlaps.T, strict=True):
        found = {threshold: (overlap >= threshold).float().mean().item() for threshold in thresholds}
        number = float(np.mean([min(count, len(boxes)) for boxes in proposals]))
        rows.append(Recall(count, number, found, overlap.mean().item()))
    return rows


def as_markdown(rows: Sequence[Recall]) -> str:
    """Format the table as Markdown."""
    thresholds = list(rows[0].recall)
    head = ["first boxes", "boxes per image", *(f"recall at IoU {t:g}" for t in thresholds), "mean best IoU"]
    lines = [head, ["---:"] * len(head)]
    for row in rows:
        found = [f"{row.recall[t]:.3f}" for t in thresholds]
        lines.append([str(row.count), f"{row.boxes:.1f}", *found, f"{row.best_overlap:.3f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
