"""Lesson 1: image classification."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.lightning_modules.metrics.confusion import count_pairs


def _batches(generator: Generator) -> Sequence[Inputs]:
    return [
        {
            "logits": scale * torch.randn(b, k, generator=generator),
            "labels": torch.randint(k, (b,), generator=generator),
        }
        for b, k, scale in ((1, 3, 1.0), (4, 5, 3.0), (4, 3, 1000.0))
    ]


def _predictions(generator: Generator) -> Sequence[Inputs]:
    return [
        {
            "predicted": torch.randint(most, (n,), generator=generator),
            "labels": torch.randint(k, (n,), generator=generator),
            "num_classes": k,
        }
        for n, k, most in ((6, 3, 3), (40, 5, 3))
    ]


def _matrices(generator: Generator) -> Sequence[Inputs]:
    counts = [torch.randint(1, 9, (k, k), generator=generator) for k in (2, 4, 5)]
    counts[2][3] = 0  # a class that does not occur
    return [{"confusion": one} for one in counts]


def _mean_accuracy(confusion: Tensor) -> Tensor:
    return (confusion.diag() / confusion.sum(1)).nanmean()


EXERCISES = (
    Exercise(
        "cross_entropy",
        F.cross_entropy,
        _batches,
        (
            Mistake(
                lambda logits, labels: F.cross_entropy(logits, labels, reduction="sum"),
                "the loss is summed over the batch; it must be the mean",
            ),
            Mistake(
                lambda logits, labels: F.cross_entropy(logits.softmax(1), labels),
                "softmax is applied twice",
            ),
            Mistake(
                lambda logits, labels: (
                    -(logits.exp() / logits.exp().sum(1, keepdim=True)).log()[:, labels].diag().mean()
                ),
                "exp(1000) is infinite in floating point; what may be subtracted from all logits without a change?",
            ),
        ),
        differentiable=("logits",),
    ),
    Exercise(
        "confusion_matrix",
        lambda predicted, labels, num_classes: count_pairs(labels, predicted, num_classes),
        _predictions,
        (
            Mistake(
                lambda predicted, labels, num_classes: count_pairs(predicted, labels, num_classes),
                "rows and columns are exchanged: the true class must be the row",
            ),
        ),
    ),
    Exercise(
        "mean_accuracy",
        _mean_accuracy,
        _matrices,
        (
            Mistake(
                lambda confusion: confusion.diag().sum() / confusion.sum(),
                "this is the accuracy over all images, in which frequent classes count more",
            ),
            Mistake(
                lambda confusion: (confusion.diag() / confusion.sum(0).clamp(min=1)).mean(),
                "counts are those of the predictions (columns), so this is a precision",
            ),
            Mistake(
                lambda confusion: (confusion.diag() / confusion.sum(1)).mean(),
                "a class that does not occur has 0 / 0; leave it out of the mean",
            ),
            Mistake(
                lambda confusion: (confusion.diag() / confusion.sum(1).clamp(min=1)).mean(),
                "a class that does not occur counts as accuracy 0; leave it out of the mean",
            ),
        ),
    ),
    Exercise(
        "classification_loss",
        F.cross_entropy,
        _batches,
        (
            Mistake(
                lambda logits, labels: F.cross_entropy(logits.softmax(1), labels),
                "softmax is applied twice: the loss cannot fall to 0, and its gradients are small",
            ),
        ),
        repair=True,
        differentiable=("logits",),
    ),
)
