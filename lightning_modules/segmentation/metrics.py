"""Metrics of segmentation over a whole set: from one confusion matrix of all pixels, or averaged over images."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from darkroom.lightning_modules.metrics.confusion import count_pairs


class SegmentationScores(Metric):
    """FCN's four metrics and Dice, overall and per class, over all pixels of a set (not averaged per image or batch).

    With n_ij pixels of class i predicted as j and t_i = sum_j n_ij of class i (Long, Shelhamer, Darrell 2015, section 5):

    - ``pixel_accuracy`` = sum_i n_ii / sum_i t_i;
    - ``mean_accuracy``: mean of accuracy_i = n_ii / t_i over the classes that occur in the truth;
    - ``mIoU``: mean of IoU_i = n_ii / (t_i + sum_j n_ji - n_ii) over the classes that occur in truth or prediction;
    - ``frequency_weighted_IoU`` = sum_i t_i IoU_i / sum_k t_k;
    - ``Dice``: mean of Dice_i = 2 n_ii / (t_i + sum_j n_ji) over the classes that occur in truth or prediction;
    - ``IoU/<name>``, ``Dice/<name>``, ``accuracy/<name>``: those of a class, nan if it never occurs.

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
        """Add images: ``preds`` int (B, H, W) class ids, ``target`` int (B, H, W) class ids or ``ignore_index``."""
        self.confusion += count_pairs(target, preds, self.num_classes, self.ignore_index)

    def compute(self) -> dict[str, Tensor]:
        """Compute the metrics, float32 scalars by name; nan for a class without pixels, which means leave out."""
        n = self.confusion.cpu().double()  # exact sums; not every device has float64
        hits, truth, predicted = n.diag(), n.sum(1), n.sum(0)
        # 0 / 0 = nan for a class that never occurs
        each = {
            "IoU": hits / (truth + predicted - hits),
            "Dice": 2 * hits / (truth + predicted),
            "accuracy": hits / truth,
        }
        scores = {
            "mIoU": each["IoU"].nanmean(),
            "Dice": each["Dice"].nanmean(),
            "pixel_accuracy": hits.sum() / truth.sum(),
            "mean_accuracy": each["accuracy"].nanmean(),
            "frequency_weighted_IoU": (truth * each["IoU"]).nansum() / truth.sum(),
        }
        for score, values in each.items():
            scores |= {f"{score}/{name}": value for name, value in zip(self.class_names, values, strict=True)}
        return {name: value.float().to(self.confusion.device) for name, value in scores.items()}


class PerImageScores(Metric):
    """Metrics of every image, averaged, as for Chair Segments (Pinto-Alva et al. 2020).

    - ``image_IoU``, ``image_Dice``: of the foreground, averaged over the images whose truth has more than
      ``min_foreground`` pixels of it: an image without has no IoU, with a few a noisy one;
    - ``image_pixel_accuracy``: the fraction of an image's pixels with the right class, averaged over all images. The
      paper's tables call it "Prec.", but it is an accuracy.

    The authors average within batches first; here every image has the same weight. nan without images to average over.

    Args:
        foreground: class that is evaluated.
        min_foreground: images with at most this many pixels of it are left out of IoU and Dice.
        ignore_index: truth with this value does not count.
    """

    full_state_update = False
    totals: Tensor

    def __init__(self, foreground: int = 1, min_foreground: int = 5, ignore_index: int = 255) -> None:
        super().__init__()
        self.foreground, self.min_foreground, self.ignore_index = foreground, min_foreground, ignore_index
        # Sums over images: IoU, Dice, how many have them; pixel accuracy, how many have it.
        self.add_state("totals", torch.zeros(5, dtype=torch.float32), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add images: ``preds`` int (B, H, W) class ids, ``target`` int (B, H, W) class ids or ``ignore_index``."""
        counted = target != self.ignore_index
        truth, found = (target == self.foreground) & counted, (preds == self.foreground) & counted
        maps = truth, found, truth & found, counted, (preds == target) & counted
        truth, found, both, pixels, right = (x.flatten(1).sum(1).float() for x in maps)
        judged, seen = truth > self.min_foreground, pixels > 0
        iou = both / (truth + found - both).clamp(min=1)
        dice = 2 * both / (truth + found).clamp(min=1)
        self.totals += torch.stack([iou * judged, dice * judged, judged, right / pixels.clamp(min=1), seen]).sum(1)

    def compute(self) -> dict[str, Tensor]:
        """Compute ``image_IoU``, ``image_Dice`` and ``image_pixel_accuracy``, each a mean over images."""
        iou, dice, judged, right, seen = self.totals
        return {"image_IoU": iou / judged, "image_Dice": dice / judged, "image_pixel_accuracy": right / seen}
