"""Lesson 4: YOLO and SSD."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torchvision.ops import batched_nms, box_iou, nms

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.course.random_boxes import near, random_boxes
from darkroom.lightning_modules.detection.ssd import select_hard_negatives
from darkroom.lightning_modules.detection.yolo import encode


def _objects(generator: Generator) -> Sequence[Inputs]:
    return [{"box": random_boxes(generator, 1)[0], "side": 64, "grid": grid} for grid in (1, 4, 7, 7)]


def _pairs(generator: Generator) -> Sequence[Inputs]:
    objects = [random_boxes(generator, count) for count in (1, 3, 4)]
    return [
        {
            "default_boxes": torch.cat([near(boxes, generator, 3), random_boxes(generator, 4)]),
            "boxes": boxes,
            "threshold": threshold,
        }
        for boxes, threshold in zip(objects, (0.5, 0.5, 0.7), strict=True)
    ]


def _losses(generator: Generator) -> Sequence[Inputs]:
    inputs = []
    for images, boxes, ratio in ((1, 8, 2), (3, 20, 3), (2, 6, 3)):
        positive = torch.zeros(images, boxes, dtype=torch.bool)
        positive[0, torch.randperm(boxes, generator=generator)[:2]] = True
        if images > 2:
            positive[1, 0] = True  # and the last image has no object
        losses = torch.rand(images, boxes, generator=generator)
        inputs.append({"losses": losses + positive, "positive": positive, "ratio": ratio})
    return inputs


def _detections(generator: Generator) -> Sequence[Inputs]:
    inputs = []
    for count, classes in ((2, 2), (4, 3)):
        boxes = near(random_boxes(generator, count), generator, 4)
        scores = torch.rand(len(boxes), generator=generator)
        labels = torch.randint(1, classes + 1, (len(boxes),), generator=generator)
        inputs.append({"boxes": boxes, "scores": scores, "labels": labels, "threshold": 0.4})
    return inputs


def _encode_box(box: Tensor, side: int, grid: int) -> tuple[int, int, Tensor]:
    expected, labels = encode([{"boxes": box[None], "labels": torch.tensor([1])}], [(side, side)], grid)
    row, column = labels[0].nonzero()[0].tolist()
    values = expected[0, row, column]
    return row, column, torch.cat([values[:2], values[2:].square()])


def _exchanged(box: Tensor, side: int, grid: int) -> tuple[int, int, Tensor]:
    row, column, values = _encode_box(box, side, grid)
    return column, row, values


def _from_the_image(box: Tensor, side: int, grid: int) -> tuple[int, int, Tensor]:
    row, column, values = _encode_box(box, side, grid)
    return row, column, torch.cat([(box[:2] + box[2:]) / 2 / side, values[2:]])


def _sizes_in_cells(box: Tensor, side: int, grid: int) -> tuple[int, int, Tensor]:
    row, column, values = _encode_box(box, side, grid)
    return row, column, torch.cat([values[:2], values[2:] * grid])


def _match(default_boxes: Tensor, boxes: Tensor, threshold: float) -> Tensor:
    iou, index = box_iou(default_boxes, boxes).max(1)
    return torch.where(iou > threshold, index, -1)


def _over_the_batch(losses: Tensor, positive: Tensor, ratio: int) -> Tensor:
    return select_hard_negatives(losses.flatten()[None], positive.flatten()[None], ratio).view_as(positive)


def _easiest(losses: Tensor, positive: Tensor, ratio: int) -> Tensor:
    return select_hard_negatives(-losses, positive, ratio)


def _with_positives(losses: Tensor, positive: Tensor, ratio: int) -> Tensor:
    ranks = losses.argsort(1, descending=True).argsort(1)
    return (ranks < ratio * positive.sum(1, keepdim=True)) & ~positive


EXERCISES = (
    Exercise(
        "encode_box",
        _encode_box,
        _objects,
        (
            Mistake(_exchanged, "row and column are exchanged: the row follows from y, the column from x"),
            Mistake(
                _from_the_image, "x and y are fractions of the image; they must be measured from the cell's corner"
            ),
            Mistake(_sizes_in_cells, "w and h are in sides of a cell; they must be in sides of the image"),
        ),
    ),
    Exercise(
        "match_default_boxes",
        _match,
        _pairs,
        (
            Mistake(
                lambda default_boxes, boxes, threshold: box_iou(default_boxes, boxes).max(1).indices,
                "default boxes that overlap no object enough are not set to the background, -1",
            ),
        ),
    ),
    Exercise(
        "hard_negatives",
        select_hard_negatives,
        _losses,
        (
            Mistake(
                _over_the_batch, "negatives are chosen over the whole batch; each image has its own number of them"
            ),
            Mistake(_easiest, "these are the background boxes with the lowest losses"),
            Mistake(_with_positives, "positive boxes take places in the ranking of losses; they must not"),
        ),
    ),
    Exercise(
        "suppress",
        batched_nms,
        _detections,
        (
            Mistake(
                lambda boxes, scores, labels, threshold: nms(boxes, scores, threshold),
                "a detection suppresses those of other classes: an object in front of another one removes it",
            ),
        ),
        repair=True,
    ),
)
