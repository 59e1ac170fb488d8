"""Lesson 5: convolutionalization and FCN. Write three functions and repair the fourth: darkroom check lesson 5."""

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_to_conv_weight(weight: Tensor, channels: int, side: int) -> Tensor:
    """Convert the weight of a linear layer over a flattened map to that of the equivalent convolution.

    Args:
        weight: of ``nn.Linear(channels * side * side, K)``, so (K, channels * side * side). Its input was a map (C, side,
            side), flattened by ``torch.flatten``.
        channels: C.
        side: of the map.

    Returns:
        weight of ``nn.Conv2d(channels, K, side)``.
    """
    raise NotImplementedError


def receptive_field(layers: Sequence[tuple[int, int, int]]) -> int:
    """Compute the side of the receptive field of one output of a stack of convolutions and poolings, in pixels.

    Args:
        layers: kernel size, stride and dilation of each layer, from the image on; at least one.

    Returns:
        number of pixels along one axis that an output depends on, far from the borders of the image.
    """
    raise NotImplementedError


def mean_iou(confusion: Tensor) -> Tensor:
    """Compute the mean intersection over union.

    Args:
        confusion: pixels by true class (rows) and predicted class (columns), int64 (K, K).

    Returns:
        mean IoU of the classes that occur in the truth or in the prediction, a number in [0, 1], ().
    """
    raise NotImplementedError


def evaluate(predictions: Sequence[Tensor], truths: Sequence[Tensor], num_classes: int) -> Tensor:
    """Compute the mean IoU of a test set that comes in batches.

    Args:
        predictions: class ids of each batch, int64 (B, H, W); the last batch may be smaller.
        truths: the same for the true classes.
        num_classes: K.

    Returns:
        mean IoU over all pixels of the set, of the classes that occur, ().
    """
    values = []
    for predicted, truth in zip(predictions, truths, strict=True):
        pairs = truth.flatten() * num_classes + predicted.flatten()
        confusion = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
        hits = confusion.diag()
        iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)  # 0 / 0 = nan for an absent class
        values.append(iou.nanmean())
    return torch.stack(values).mean()
