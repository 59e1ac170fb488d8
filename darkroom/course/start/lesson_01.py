"""Lesson 1: image classification. Write three functions and repair the fourth: darkroom check lesson 1."""

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the negative logarithm of the softmax probability of the true class, as a mean over the batch.

    Write it with exp, log, max and sums of tensors. Logits may be as large as 1000.

    Args:
        logits: (B, K).
        labels: true class of each image, int64 (B,), 0 ... K - 1.

    Returns:
        a number, (), finite; differentiable with respect to the logits.
    """
    raise NotImplementedError


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count how often each true class is classified as each class.

    Args:
        predicted: class of each image, int64 (N,).
        labels: true class of each image, int64 (N,).
        num_classes: K.

    Returns:
        int64 (K, K): the true class is the row, the predicted class the column.
    """
    raise NotImplementedError


def mean_accuracy(confusion: Tensor) -> Tensor:
    """Compute the accuracy of each true class, and the mean of these over the classes that occur in the truth.

    Args:
        confusion: int64 (K, K), true classes in rows.

    Returns:
        a number in [0, 1], ().
    """
    raise NotImplementedError


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy of a batch for training.

    Args:
        logits: output of the last linear layer, (B, K).
        labels: true class of each image, int64 (B,).

    Returns:
        a number, (); differentiable with respect to the logits.
    """
    probabilities = F.softmax(logits, dim=1)
    return F.cross_entropy(probabilities, labels)
