"""Scores of a segmentation over a whole set, all from one confusion matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class SegmentationScores(Metric):
    """mIoU, Dice, pixel accuracy and the IoU of every class, over all pixels of a set (not averaged per image or batch).

    With n_ij pixels of class i predicted as j (Long, Shelhamer, Darrell 2015, section 5):
    IoU_i = n_ii / (sum_j n_ij + sum_j n_ji - n_ii); Dice_i = 2 n_ii / (sum_j n_ij + sum_j n_ji); ``mIoU`` and ``Dice`` are
    their means over the classes that occur in truth or prediction; ``pixel_accuracy`` = sum_i n_ii / sum_ij n_ij. A class
    that never occurs has IoU nan.

    Args:
        num_classes: K.
        ignore_index: truth with this value does not count.
        class_names: K names for ``IoU/<name>``; default: the numbers.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, num_classes: int, ignore_index: int = 255, class_names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.class_names = tuple(class_names or map(str, range(num_classes)))
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """``preds`` int (B, H, W) class ids, ``target`` int (B, H, W) class ids or ``ignore_index``."""
        k = self.num_classes
        cell = torch.where(target == self.ignore_index, k * k, target * k + preds).flatten()
        # Not torch.bincount: on a GPU it waits for the device to learn how many bins there are.
        counts = torch.zeros(k * k + 1, dtype=torch.long, device=cell.device).scatter_add_(
            0, cell, torch.ones_like(cell)
        )
        self.confusion += counts[:-1].view(k, k)

    def compute(self) -> dict[str, Tensor]:
        n = self.confusion.cpu().double()  # exact sums; not every device has float64
        hits, total = n.diag(), n.sum(0) + n.sum(1)
        iou = hits / (total - hits)  # 0 / 0 = nan for a class that never occurs
        scores = {"mIoU": iou.nanmean(), "Dice": (2 * hits / total).nanmean(), "pixel_accuracy": hits.sum() / n.sum()}
        scores |= {f"IoU/{name}": value for name, value in zip(self.class_names, iou, strict=True)}
        return {name: value.float().to(self.confusion.device) for name, value in scores.items()}
