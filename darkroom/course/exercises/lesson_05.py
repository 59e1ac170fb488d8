"""Lesson 5: convolutionalization and FCN."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.lightning_modules.layers.convolutionalize import linear_to_conv
from darkroom.lightning_modules.metrics.confusion import count_pairs
from darkroom.lightning_modules.segmentation.metrics import SegmentationScores

Layers = Sequence[tuple[int, int, int]]


def _weights(generator: Generator) -> Sequence[Inputs]:
    return [
        {"weight": torch.randn(k, c * side**2, generator=generator), "channels": c, "side": side}
        for k, c, side in ((2, 1, 3), (3, 4, 2), (5, 3, 1))
    ]


def _stacks(generator: Generator) -> Sequence[Inputs]:
    """Return single layers, and random stacks in which strides come before other kernels."""

    def choose(values: Sequence[int]) -> int:
        return values[int(torch.randint(len(values), (), generator=generator))]

    stacks: list[Layers] = [[(3, 1, 1)], [(3, 1, 2)], [(3, 2, 1), (3, 1, 1)], [(3, 1, 1), (2, 2, 1), (3, 1, 2)]]
    stacks += [[(choose((1, 3, 5)), choose((1, 2)), choose((1, 2, 4))) for _ in range(6)] for _ in range(3)]
    return [{"layers": stack} for stack in stacks]


def _matrices(generator: Generator) -> Sequence[Inputs]:
    counts = [torch.randint(1, 50, (k, k), generator=generator) for k in (2, 4, 5, 3)]
    counts[2][3], counts[2][:, 3] = 0, 0  # a class that does not occur
    counts[3][1] = 0  # a class that is only predicted
    return [{"confusion": one} for one in counts]


def _sets(generator: Generator) -> Sequence[Inputs]:
    """Return sets in which predictions are right, or a class that is predicted wrongly; in the last it never occurs."""
    inputs = []
    for batches, classes, occurring, guess in ((1, 2, 2, 0), (3, 4, 4, 0), (2, 4, 3, 3)):
        truths = [torch.randint(occurring, (2 if n else 1, 4, 4), generator=generator) for n in range(batches)]
        truths[0] = truths[0].clamp(max=1)  # classes differ between batches
        wrong = [torch.rand(truth.shape, generator=generator) < 0.1 + 0.3 * n for n, truth in enumerate(truths)]
        wrong[0][0, 0, 0] = True
        predictions = [torch.where(w, guess, truth) for w, truth in zip(wrong, truths, strict=True)]
        inputs.append({"predictions": predictions, "truths": truths, "num_classes": classes})
    return inputs


def _linear_to_conv_weight(weight: Tensor, channels: int, side: int) -> Tensor:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight)
    return linear_to_conv(linear, side).weight


def _receptive_field(layers: Layers) -> int:
    size, step = 1, 1
    for kernel, stride, dilation in layers:
        size, step = size + (kernel - 1) * dilation * step, step * stride
    return size


def _without_strides(layers: Layers) -> int:
    return _receptive_field([(kernel, 1, dilation) for kernel, _, dilation in layers])


def _without_dilation(layers: Layers) -> int:
    return _receptive_field([(kernel, stride, 1) for kernel, stride, _ in layers])


def _own_stride(layers: Layers) -> int:
    size, step = 1, 1
    for kernel, stride, dilation in layers:
        step *= stride
        size += (kernel - 1) * dilation * step
    return size


def _mean_iou(confusion: Tensor) -> Tensor:
    hits = confusion.diag()
    return (hits / (confusion.sum(0) + confusion.sum(1) - hits)).nanmean()


def _without_predicted(confusion: Tensor) -> Tensor:
    hits, occurs = confusion.diag(), confusion.sum(1) > 0
    return (hits / (confusion.sum(0) + confusion.sum(1) - hits))[occurs].mean()


def _with_absent(confusion: Tensor) -> Tensor:
    hits = confusion.diag()
    return (hits / (confusion.sum(0) + confusion.sum(1) - hits)).nan_to_num().mean()


def _evaluate(predictions: Sequence[Tensor], truths: Sequence[Tensor], num_classes: int) -> Tensor:
    metric = SegmentationScores(num_classes)
    for predicted, truth in zip(predictions, truths, strict=True):
        metric.update(predicted, truth)
    return metric.compute()["mIoU"]


def _set_without_predicted(predictions: Sequence[Tensor], truths: Sequence[Tensor], num_classes: int) -> Tensor:
    pairs = zip(predictions, truths, strict=True)
    return _without_predicted(torch.stack([count_pairs(t, p, num_classes) for p, t in pairs]).sum(0))


def _per_batch(predictions: Sequence[Tensor], truths: Sequence[Tensor], num_classes: int) -> Tensor:
    pairs = zip(predictions, truths, strict=True)
    return torch.stack([_mean_iou(count_pairs(truth, predicted, num_classes)) for predicted, truth in pairs]).mean()


EXERCISES = (
    Exercise(
        "linear_to_conv_weight",
        _linear_to_conv_weight,
        _weights,
        (
            Mistake(
                lambda weight, channels, side: weight.reshape(-1, side, side, channels).permute(0, 3, 1, 2),
                "the flattened map is read with channels last; torch.flatten of (C, H, W) runs over channels first",
            ),
            Mistake(
                lambda weight, channels, side: weight.reshape(-1, channels, side, side).transpose(2, 3),
                "rows and columns of the kernel are exchanged",
            ),
        ),
    ),
    Exercise(
        "receptive_field",
        _receptive_field,
        _stacks,
        (
            Mistake(
                _without_strides,
                "strides are ignored: after a stride, neighbours in a map lie further apart in the image",
            ),
            Mistake(_without_dilation, "dilation is ignored"),
            Mistake(
                _own_stride, "a layer's own stride widens its own kernel; it must only count for the layers after it"
            ),
            Mistake(
                lambda layers: _receptive_field(layers) - 1, "off by one: without a layer an output sees one pixel"
            ),
        ),
    ),
    Exercise(
        "mean_iou",
        _mean_iou,
        _matrices,
        (
            Mistake(
                lambda confusion: (confusion.diag() / confusion.sum(1)).nanmean(),
                "this is the mean accuracy: the union must also count pixels that are wrongly predicted as the class",
            ),
            Mistake(
                lambda confusion: (confusion.diag() / (confusion.sum(0) + confusion.sum(1))).nanmean(),
                "pixels of the intersection are counted twice in the union",
            ),
            Mistake(
                _with_absent,
                "a class that does not occur counts as IoU 0; leave it out of the mean",
            ),
            Mistake(
                _without_predicted,
                "a class that is only predicted is left out of the mean; its pixels are wrong, so its IoU is 0",
            ),
        ),
    ),
    Exercise(
        "evaluate",
        _evaluate,
        _sets,
        (
            Mistake(
                _per_batch,
                "this is the mean of the values of batches; it changes with the batch size, and rare classes count wrongly",
            ),
            Mistake(
                _set_without_predicted,
                "a class that is only predicted is left out of the mean; its pixels are wrong, so its IoU is 0",
            ),
        ),
        repair=True,
    ),
)
