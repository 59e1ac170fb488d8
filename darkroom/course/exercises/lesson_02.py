"""Lesson 2: sliding windows and proposals."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torchvision.ops import box_iou, nms

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.course.random_boxes import near, random_boxes
from darkroom.datamodules.proposals.recall import recall


def _pairs(generator: Generator) -> Sequence[Inputs]:
    apart = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[10.0, 12.0, 13.0, 16.0], [0.0, 2.0, 4.0, 6.0]])
    inputs: list[Inputs] = [{"boxes": apart[0], "others": apart[1]}]
    for n, m in ((1, 1), (3, 5)):
        inputs.append({"boxes": random_boxes(generator, n), "others": random_boxes(generator, m)})
    return inputs


def _images(generator: Generator) -> Sequence[Inputs]:
    inputs = []
    for _ in range(6):
        window, stride, down, right = (int(torch.randint(1, 12, (), generator=generator)) for _ in range(4))
        inputs.append({"height": window + down, "width": window + 2 * right, "window": window, "stride": stride})
    return inputs


def _proposals(generator: Generator) -> Sequence[Inputs]:
    inputs = []
    for count, threshold in ((4, 0.5), (8, 0.7), (100, 0.4)):
        objects = random_boxes(generator, 8)
        proposals = torch.cat([near(objects, generator, 2, 4.0), random_boxes(generator, 10)])
        mixed = proposals[torch.randperm(len(proposals), generator=generator)]
        inputs.append({"proposals": mixed, "objects": objects, "count": count, "threshold": threshold})
    return inputs


def _candidates(generator: Generator) -> Sequence[Inputs]:
    """Return boxes in chains: neighbours overlap, boxes at a distance of two do not."""
    inputs = []
    for count, extra in ((3, 0), (5, 6)):
        start = 10.0 * torch.arange(count)
        chain = torch.stack([start, torch.zeros(count), start + 20, torch.full((count,), 10.0)], 1)
        boxes = torch.cat([chain, random_boxes(generator, extra) + 100]) if extra else chain
        scores = torch.cat([1.0 + torch.arange(count, 0, -1.0), torch.rand(extra, generator=generator)])
        mixed = torch.randperm(len(boxes), generator=generator)
        inputs.append({"boxes": boxes[mixed], "scores": scores[mixed], "threshold": 0.2})
    return inputs


def _without_clamp(boxes: Tensor, others: Tensor) -> Tensor:
    low, high = torch.maximum(boxes[:, None, :2], others[:, :2]), torch.minimum(boxes[:, None, 2:], others[:, 2:])
    both = (high - low).prod(-1)
    area, other_area = ((one[:, 2:] - one[:, :2]).prod(-1) for one in (boxes, others))
    return both / (area[:, None] + other_area - both)


def _over_the_sum(boxes: Tensor, others: Tensor) -> Tensor:
    iou = box_iou(boxes, others)
    return iou / (1 + iou)


def _recall(proposals: Tensor, objects: Tensor, count: int, threshold: float) -> float:
    (row,) = recall([proposals.numpy()], [objects.numpy()], [count], [threshold])
    return row.recall[threshold]


def _precision(proposals: Tensor, objects: Tensor, count: int, threshold: float) -> float:
    return float((box_iou(proposals[:count], objects).max(1).values >= threshold).float().mean())


def _suppressed_suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    order = scores.argsort(descending=True)
    overlaps = (box_iou(boxes[order], boxes[order]) > threshold).triu(diagonal=1).any(0)
    return order[~overlaps]


EXERCISES = (
    Exercise(
        "pairwise_iou",
        box_iou,
        _pairs,
        (
            Mistake(
                _without_clamp,
                "boxes that lie apart along both axes get an intersection: two negative sides have a positive product",
            ),
            Mistake(_over_the_sum, "the intersection is divided by the sum of the areas, in which it counts twice"),
        ),
    ),
    Exercise(
        "count_windows",
        lambda height, width, window, stride: ((height - window) // stride + 1) * ((width - window) // stride + 1),
        _images,
        (
            Mistake(
                lambda height, width, window, stride: ((height - window) // stride) * ((width - window) // stride),
                "off by one along each axis: an image as large as the window has one position",
            ),
            Mistake(
                lambda height, width, window, stride: (height // stride) * (width // stride),
                "windows that leave the image are counted too",
            ),
        ),
    ),
    Exercise(
        "recall",
        _recall,
        _proposals,
        (
            Mistake(_precision, "this is the fraction of proposals that cover an object, so a precision"),
            Mistake(
                lambda proposals, objects, count, threshold: _recall(proposals, objects, len(proposals), threshold),
                "all proposals count, instead of the first ones",
            ),
        ),
    ),
    Exercise(
        "non_maximum_suppression",
        nms,
        _candidates,
        (
            Mistake(
                _suppressed_suppress,
                "a box is removed although the box that overlaps it is removed itself",
            ),
        ),
        repair=True,
    ),
)
