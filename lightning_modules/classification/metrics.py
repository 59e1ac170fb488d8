"""Metrics of classification over a whole set, from one confusion matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from darkroom.lightning_modules.metrics.confusion import count_pairs

PER_CLASS_LIMIT = 100  # with more classes, the accuracies of single classes are not logged


class ClassificationScores(Metric):
    """Accuracies over all images of a set, overall and per class.

    With n_ij images of class i classified as j and t_i = sum_j n_ij:

    - ``accuracy`` = sum_i n_ii / sum_i t_i (top-1);
    - ``top5_accuracy``: fraction of images whose class is among the five most probable ones, only for K > 5;
    - ``mean_accuracy``: mean of n_ii / t_i over the classes that occur in the truth (macro average);
    - ``accuracy/<name>``: n_ii / t_i of a class, nan if it never occurs; only for K up to 100.

    Args:
        num_classes: K.
        class_names: K names for ``accuracy/<name>``; default: the numbers.

    Attributes:
        confusion: int64 (K, K), n_ij.
    """

    full_state_update = False
    confusion: Tensor
    top5: Tensor

    def __init__(self, num_classes: int, class_names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_names = tuple(class_names or map(str, range(num_classes)))
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("top5", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Tensor, label: Tensor) -> None:
        """Add images: ``scores`` (B, K), logits or probabilities; ``label`` int64 (B,)."""
        self.confusion += count_pairs(label, scores.argmax(1), self.num_classes)
        if self.num_classes > 5:
            self.top5 += (scores.topk(5).indices == label[:, None]).sum()

    def compute(self) -> dict[str, Tensor]:
        """Compute the metrics, float32 scalars by name."""
        n = self.confusion.cpu().double()  # exact sums; not every device has float64
        hits, truth = n.diag(), n.sum(1)
        each = hits / truth  # 0 / 0 = nan for a class that never occurs
        values = {"accuracy": hits.sum() / truth.sum(), "mean_accuracy": each.nanmean()}
        if self.num_classes > 5:
            values["top5_accuracy"] = self.top5.cpu().double() / truth.sum()
        if self.num_classes <= PER_CLASS_LIMIT:
            values |= {f"accuracy/{name}": value for name, value in zip(self.class_names, each, strict=True)}
        return {name: value.float().to(self.confusion.device) for name, value in values.items()}
