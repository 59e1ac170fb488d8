"""Answers of lesson 1."""

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    shifted = logits - logits.max(1, keepdim=True).values  # exp(1000) is infinite
    of_truth = shifted.gather(1, labels[:, None])[:, 0]
    return (shifted.exp().sum(1).log() - of_truth).mean()


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    pairs = labels * num_classes + predicted
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def mean_accuracy(confusion: Tensor) -> Tensor:
    counts = confusion.sum(1)
    present = counts > 0
    return (confusion.diag()[present] / counts[present]).mean()


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The broken version applies softmax, which cross_entropy contains already."""
    return F.cross_entropy(logits, labels)
