"""Lesson 7: U-Net and Mask R-CNN."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.lightning_modules.segmentation.upsampling import crop


def _maps(generator: Generator) -> Sequence[Inputs]:
    return [
        {"skip": torch.randn(2, 3, *large, generator=generator), "x": torch.randn(2, 2, *small, generator=generator)}
        for large, small in (((8, 8), (4, 4)), ((7, 10), (5, 4)), ((4, 6), (4, 6)))
    ]


def _distances(generator: Generator) -> Sequence[Inputs]:
    inputs = []
    for w0, sigma in ((10.0, 5.0), (3.0, 2.0)):
        nearest = 8 * torch.rand(4, 5, generator=generator)
        second = nearest + 4 * torch.rand(4, 5, generator=generator)
        inputs.append({"nearest": nearest, "second": second, "w0": w0, "sigma": sigma})
    return inputs


def _predictions(generator: Generator) -> Sequence[Inputs]:
    inputs = []
    for count in (1, 3):
        truth = (torch.rand(count, 5, 6, generator=generator) < 0.2 + 0.3 * torch.arange(count)[:, None, None]).float()
        truth[:, 0, 0] = 1
        probabilities = (0.7 * truth + 0.3 * torch.rand(truth.shape, generator=generator)).clamp(0, 1)
        inputs.append({"probabilities": probabilities, "truth": truth})
    return inputs


def _masks(generator: Generator) -> Sequence[Inputs]:
    """Return masks of blocks of 2 x 2 pixels, of which all rules for the nearest pixel take the same one."""
    classes = torch.tensor([0, 4, 9, 255])
    return [
        {
            "mask": classes[torch.randint(4, (h, w), generator=generator)]
            .repeat_interleave(2, 0)
            .repeat_interleave(2, 1),
            "height": height,
            "width": width,
        }
        for h, w, height, width in ((3, 6, 12, 24), (4, 8, 4, 8))
    ]


def _join(skip: Tensor, x: Tensor) -> Tensor:
    offset = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
    return torch.cat([crop(skip, offset, (x.shape[2], x.shape[3])), x], 1)


def _corner(skip: Tensor, x: Tensor) -> Tensor:
    return torch.cat([skip[:, :, : x.shape[2], : x.shape[3]], x], 1)


def _border_weight(nearest: Tensor, second: Tensor, w0: float, sigma: float) -> Tensor:
    return 1 + w0 * torch.exp(-((nearest + second) ** 2) / (2 * sigma**2))


def _sum_of_squares(nearest: Tensor, second: Tensor, w0: float, sigma: float) -> Tensor:
    return 1 + w0 * torch.exp(-(nearest**2 + second**2) / (2 * sigma**2))


def _dice(probabilities: Tensor, truth: Tensor) -> Tensor:
    areas = probabilities.sum((1, 2)) + truth.sum((1, 2))
    return (2 * (probabilities * truth).sum((1, 2)) / areas).mean()


def _dice_of_batch(probabilities: Tensor, truth: Tensor) -> Tensor:
    return 2 * (probabilities * truth).sum() / (probabilities.sum() + truth.sum())


def _soft_iou(probabilities: Tensor, truth: Tensor) -> Tensor:
    both = (probabilities * truth).sum((1, 2))
    return (both / (probabilities.sum((1, 2)) + truth.sum((1, 2)) - both)).mean()


def _nearest(mask: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(mask[None, None].float(), (height, width), mode="nearest")[0, 0].long()


def _bilinear(mask: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(mask[None, None].float(), (height, width), mode="bilinear")[0, 0].round().long()


EXERCISES = (
    Exercise(
        "join_skip",
        _join,
        _maps,
        (
            Mistake(_corner, "the upper left corner is cut out instead of the center: the two maps do not match"),
            Mistake(
                lambda skip, x: _join(skip, x).roll(x.shape[1], 1),
                "the channels of the skip connection must come first",
            ),
        ),
    ),
    Exercise(
        "border_weight",
        _border_weight,
        _distances,
        (
            Mistake(_sum_of_squares, "distances are squared before they are added; equation 2 squares their sum"),
            Mistake(
                lambda nearest, second, w0, sigma: _border_weight(nearest, second, w0, sigma) - 1,
                "pixels far from all objects have weight 0; they must have weight 1",
            ),
            Mistake(
                lambda nearest, second, w0, sigma: _border_weight(nearest, 0 * second, w0, sigma),
                "the second nearest object is ignored: all borders get a large weight, not the gaps alone",
            ),
        ),
    ),
    Exercise(
        "soft_dice",
        _dice,
        _predictions,
        (
            Mistake(_dice_of_batch, "sums run over the whole batch; each image has its own coefficient"),
            Mistake(_soft_iou, "this is the IoU, which divides by the union"),
            Mistake(
                lambda probabilities, truth: 1 - _dice(probabilities, truth),
                "this is the loss, 1 minus the coefficient",
            ),
            Mistake(lambda probabilities, truth: _dice(probabilities, truth) / 2, "a factor of 2 is missing"),
        ),
        differentiable=("probabilities",),
    ),
    Exercise(
        "resize_mask",
        _nearest,
        _masks,
        (
            Mistake(
                _bilinear,
                "class ids are interpolated: between two classes appear others that are not there",
            ),
        ),
        repair=True,
    ),
)
