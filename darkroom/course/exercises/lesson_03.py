"""Lesson 3: R-CNN to Faster R-CNN."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.course.random_boxes import near, random_boxes
from darkroom.lightning_modules.detection.boxes import clip, decode, encode
from darkroom.lightning_modules.detection.metrics import average_precisions

_UNIT = (1.0, 1.0, 1.0, 1.0)  # standard deviations by which offsets are divided


def _pairs(generator: Generator) -> Sequence[Inputs]:
    return [
        {"boxes": random_boxes(generator, count), "references": random_boxes(generator, count)} for count in (1, 3, 6)
    ]


def _places(generator: Generator) -> Sequence[Inputs]:
    inputs = []
    for sides, ratios in (([16.0], [1.0]), ([16.0], [0.5, 1.0, 2.0]), ([8.0, 32.0], [0.5, 1.0, 3.0])):
        x, y = (float(torch.randint(20, 80, (), generator=generator)) for _ in range(2))
        inputs.append({"x": x, "y": y, "sides": torch.tensor(sides), "ratios": torch.tensor(ratios)})
    return inputs


def _rankings(generator: Generator) -> Sequence[Inputs]:
    first = torch.tensor([True, False, False, True, True, False])
    inputs: list[Inputs] = [{"right": first, "objects": 4}]
    for count, most in ((12, 8), (40, 30)):
        right = torch.rand(count, generator=generator) < torch.linspace(0.9, 0.2, count)
        inputs.append({"right": right, "objects": max(most, int(right.sum()))})
    return inputs


def _proposals(generator: Generator) -> Sequence[Inputs]:
    inputs = []
    for count in (3, 8):
        anchors = near(random_boxes(generator, count), generator, 1, 25.0)  # some reach beyond the border
        offsets = 0.4 * torch.randn(count, 4, generator=generator)
        inputs.append({"anchors": anchors, "offsets": offsets, "height": 56, "width": 64})
    return inputs


def _encode(boxes: Tensor, references: Tensor) -> Tensor:
    return encode(boxes, references, _UNIT)


def _from_corners(boxes: Tensor, references: Tensor) -> Tensor:
    sizes = references[:, 2:] - references[:, :2]
    return torch.cat([(boxes[:, :2] - references[:, :2]) / sizes, _encode(boxes, references)[:, 2:]], 1)


def _in_pixels(boxes: Tensor, references: Tensor) -> Tensor:
    offsets = _encode(boxes, references)
    return torch.cat([offsets[:, :2] * (references[:, 2:] - references[:, :2]), offsets[:, 2:]], 1)


def _without_logarithm(boxes: Tensor, references: Tensor) -> Tensor:
    offsets = _encode(boxes, references)
    return torch.cat([offsets[:, :2], offsets[:, 2:].exp()], 1)


def _anchors(x: float, y: float, sides: Tensor, ratios: Tensor) -> Tensor:
    heights, widths = (sides[:, None] * ratios.sqrt()).flatten(), (sides[:, None] / ratios.sqrt()).flatten()
    return torch.stack([x - widths / 2, y - heights / 2, x + widths / 2, y + heights / 2], 1)


def _sides_times_ratio(x: float, y: float, sides: Tensor, ratios: Tensor) -> Tensor:
    heights, widths = (sides[:, None] * ratios).flatten(), sides.repeat_interleave(len(ratios))
    return torch.stack([x - widths / 2, y - heights / 2, x + widths / 2, y + heights / 2], 1)


def _ratios_first(x: float, y: float, sides: Tensor, ratios: Tensor) -> Tensor:
    return _anchors(x, y, sides, ratios).view(len(sides), len(ratios), 4).transpose(0, 1).flatten(0, 1)


def _average_precision(right: Tensor, objects: int) -> float:
    return average_precisions(right, objects)[0]


def _not_interpolated(right: Tensor, objects: int) -> float:
    precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
    return float(precision[right].sum() / objects)


def _of_found(right: Tensor, objects: int) -> float:
    return _average_precision(right, int(right.sum()))


def _refine(anchors: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    return clip(decode(offsets, anchors, _UNIT), (height, width))


def _clipped_first(anchors: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    return decode(offsets, clip(anchors, (height, width)), _UNIT)


EXERCISES = (
    Exercise(
        "encode_offsets",
        _encode,
        _pairs,
        (
            Mistake(_from_corners, "shifts are those of the upper left corner; they must be those of the center"),
            Mistake(_in_pixels, "shifts are in pixels; they must be in sides of the reference"),
            Mistake(_without_logarithm, "ratios of the sizes are not in logarithms"),
            Mistake(
                lambda boxes, references: _encode(references, boxes),
                "the offsets lead from the boxes to the references; they must lead from the references to the boxes",
            ),
        ),
    ),
    Exercise(
        "anchors_at",
        _anchors,
        _places,
        (
            Mistake(
                _sides_times_ratio, "the areas change with the ratio; all anchors of a side must have the same area"
            ),
            Mistake(
                lambda x, y, sides, ratios: _anchors(x, y, sides, 1 / ratios),
                "the ratio is taken as width divided by height",
            ),
            Mistake(_ratios_first, "the order is wrong: all ratios of the first side come first"),
        ),
    ),
    Exercise(
        "average_precision",
        _average_precision,
        _rankings,
        (
            Mistake(
                _not_interpolated,
                "the precision is not interpolated: at a recall, a higher recall may have a higher precision",
            ),
            Mistake(_of_found, "the recall is that of the objects that were found, so missed objects do not count"),
        ),
    ),
    Exercise(
        "refine",
        _refine,
        _proposals,
        (
            Mistake(
                _clipped_first,
                "anchors are clipped before their offsets are applied, so offsets are from other boxes than in training, "
                "and the results are not clipped",
            ),
        ),
        repair=True,
    ),
)
