"""Losses over a map of logits. Any ``nn.Module`` of (logits, mask) can stand in for them, by ``class_path``.

All take ``logits`` float (B, K, H, W) and ``mask`` int64 (B, H, W), class ids or ``ignore_index``. They compute in float32,
return 0 (not nan) with a gradient of 0 if no pixel counts, and never synchronize with the device.

In training on several ranks, losses that average over pixels divide by the mean count over ranks, so their mean over ranks
is the loss of one large batch. Dice and Lovasz use each rank's own batch; their value depends on the number of ranks.
"""

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.distributed import mean_over_ranks
from darkroom.protocols import IgnoresIndex, NeedsEntries


def _mean(values: Tensor, weights: Tensor, dim: int | None = None) -> Tensor:
    """Average ``values`` weighted by ``weights`` (factors, or bool), 0 if none counts."""
    return _divide((values * weights).sum(dim), weights.sum(dim))


def _mean_of_pixels(values: Tensor, weights: Tensor) -> Tensor:
    """Average over all pixels, divided by the mean count over ranks: the mean over ranks is the mean over all pixels."""
    return _divide((values * weights).sum(), mean_over_ranks(weights.sum()))


def _divide(total: Tensor, count: Tensor) -> Tensor:
    return total / count.where(count > 0, 1)  # dividing by a tiny count would make a GradScaler's gradient inf


def _one_hot(mask: Tensor, counted: Tensor, num_classes: int) -> Tensor:
    """Encode a mask as bool (B, K, H, W), False where not ``counted``. Class ids out of range raise."""
    b, h, w = mask.shape
    truth = torch.zeros(b, num_classes, h, w, dtype=torch.bool, device=mask.device)
    return truth.scatter_(1, mask.where(counted, 0).unsqueeze(1), counted.unsqueeze(1))


class _Pixelwise(nn.Module):
    """Base of losses of the cross-entropy of every pixel and the factor of its class."""

    class_weights: Tensor | None

    def __init__(self, ignore_index: int, class_weights: Sequence[float] | None) -> None:
        super().__init__()
        if class_weights is not None and min(class_weights, default=-1) < 0:
            raise UsageError(
                f"{type(self).__name__}.class_weights must be factors of at least 0, got {list(class_weights)}"
            )
        self.ignore_index = ignore_index
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)  # the hyper-parameters have them

    def _cross_entropy(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Compute -log of the true class's probability: float32 (B, H, W), 0 where ignored."""
        # Summed by the caller: on a GPU torch's own sum has no fixed order and raises under deterministic=True.
        return F.cross_entropy(logits.float(), mask, ignore_index=self.ignore_index, reduction="none")

    def _weight(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return the factor of every pixel's class: float32 (B, H, W), 0 where ignored."""
        counted = mask != self.ignore_index
        if self.class_weights is None:
            return counted.float()
        if len(self.class_weights) != logits.shape[1]:
            raise UsageError(
                f"{type(self).__name__}.class_weights must be {logits.shape[1]} factors, one per class (with the "
                f"background), got {len(self.class_weights)}"
            )
        return self.class_weights.float()[mask.where(counted, 0)] * counted


class CrossEntropy(_Pixelwise):
    """Pixelwise cross-entropy, averaged over the pixels that count; 0 (not nan) if none does.

    ``logits`` (B, K, H, W), ``mask`` int64 (B, H, W), class ids or ``ignore_index`` -> scalar.

    Args:
        ignore_index: mask value that does not count.
        class_weights: one factor per class; the average is weighted by them, as in ``torch.nn.CrossEntropyLoss``.
        reduction: "mean", or "sum" over all pixels of all images of the batch: FCN's loss (Long, Shelhamer, Darrell 2015,
            section 3), for rates as small as its 1e-10; it grows with the image and with the batch, FCN's being 1.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__(ignore_index, class_weights)
        self.reduction = reduction

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        losses, weight = self._cross_entropy(logits, mask), self._weight(logits, mask)
        return (losses * weight).sum() if self.reduction == "sum" else _mean_of_pixels(losses, weight)


class Focal(_Pixelwise):
    """Focal loss (Lin, Goyal, Girshick, He, Dollár 2017): cross-entropy with less weight where the true class is likely.

    ``logits`` (B, K, H, W), ``mask`` int64 (B, H, W) -> scalar. The paper's p_t is a sigmoid's; here it is the softmax
    probability of the true class. The paper divides by the number of anchors with an object; here the loss is averaged as
    in ``CrossEntropy``, which it is for ``gamma`` 0.

    Args:
        gamma: exponent, 0 or more.
        class_weights: alpha of eq. 5, one factor per class; None is eq. 4.
        ignore_index: mask value that does not count.
    """

    def __init__(
        self, gamma: float = 2.0, class_weights: Sequence[float] | None = None, ignore_index: int = 255
    ) -> None:
        super().__init__(ignore_index, class_weights)
        if gamma < 0:
            raise UsageError(f"Focal.gamma must be 0 (cross-entropy) or more, got {gamma}")
        self.gamma = gamma

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        losses = self._cross_entropy(logits, mask)  # -log p_t
        # 1 - p_t; the clamp because the slope of x^gamma at 0 is infinite for gamma < 1.
        doubt = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).tiny)
        return _mean_of_pixels(doubt**self.gamma * losses, self._weight(logits, mask))  # eq. 4, 5


class BorderWeighted(_Pixelwise):
    """U-Net's cross-entropy (Ronneberger, Fischer, Brox 2015, section 3), with larger weights in the gaps between cells.

    ``logits`` (B, K, H, W), ``mask`` int64 (B, H, W), ``border`` float (B, H, W) in pixels -> scalar. ``border`` is
    d1 + d2, the distance to the nearest cell plus that to the second nearest; large where there are fewer than two.

    The extra weight of eq. 2 applies to pixels of class 0 only, the background between cells; others have the weight of
    their class. Eq. 1 sums; here the sum is divided by the number of pixels that count, not by their weights: a batch with
    more gaps has a larger loss.

    Args:
        w0: extra weight in the narrowest gap.
        sigma: scale of the gaps' width, in pixels.
        class_weights: w_c of eq. 2, one factor per class; None: 1.
        ignore_index: mask value that does not count.
    """

    needs: ClassVar[tuple[str, ...]] = ("border",)  # entries of the batch that forward takes beside logits and mask

    def __init__(
        self,
        w0: float = 10.0,
        sigma: float = 5.0,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(ignore_index, class_weights)
        if w0 < 0 or sigma <= 0:
            raise UsageError(f"BorderWeighted.w0 must be 0 or more and sigma above 0 (pixels), got {w0} and {sigma}")
        self.w0, self.sigma = w0, sigma

    def forward(self, logits: Tensor, mask: Tensor, border: Tensor) -> Tensor:
        if border.shape != mask.shape:
            raise UsageError(f"border must have the mask's shape, {tuple(mask.shape)}, got {tuple(border.shape)}")
        extra = self.w0 * torch.exp(-border.float().square() / (2 * self.sigma**2))
        weight = self._weight(logits, mask) + extra * (mask == 0)  # eq. 2
        return _mean_of_pixels(weight * self._cross_entropy(logits, mask), mask != self.ignore_index)  # eq. 1


class Dice(nn.Module):
    """Soft Dice loss (Milletari, Navab, Ahmadi 2016, section 3): 1 - Dice, averaged over the classes that occur.

    ``logits`` (B, K, H, W), ``mask`` int64 (B, H, W) -> scalar in [0, 1]. Dice_k = 2 sum p_k g_k / (sum p_k^2 + sum g_k^2)
    over all pixels of the batch that count, p the softmax and g the truth; the paper has one class, the foreground. A
    class that does not occur in the batch's truth is left out: its Dice would be 0 for any positive probability. Predicting
    it still costs, by the class whose pixels it takes. The background is one of the K classes: predicted everywhere, it
    costs 1/2 or more as soon as there is anything else.

    Args:
        ignore_index: mask value that does not count.
        smooth: pixels added to numerator and denominator; the paper's is 0. More reduces the variance for classes of few
            pixels, but a class of n pixels that is missed has a Dice of smooth / (n + smooth).
    """

    def __init__(self, ignore_index: int = 255, smooth: float = 0.0) -> None:
        super().__init__()
        if smooth < 0:
            raise UsageError(f"Dice.smooth must be a number of pixels, 0 or more, got {smooth}")
        self.ignore_index, self.smooth = ignore_index, smooth

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        counted, pixels = mask != self.ignore_index, (0, 2, 3)
        truth, p = _one_hot(mask, counted, logits.shape[1]), logits.float().softmax(1)
        size = truth.sum(pixels)
        both = (p * truth).sum(pixels)
        either = (p.square() * counted.unsqueeze(1)).sum(pixels) + size  # sum g^2 = sum g
        # The clamp touches only classes that do not occur.
        dice = (2 * both + self.smooth) / (either.clamp(min=1) + self.smooth)
        return _mean(1 - dice, size > 0)


class Lovasz(nn.Module):
    """Lovász-Softmax (Berman, Rannen Triki, Blaschko 2018): 1 - IoU of the classes, made continuous, and their mean.

    ``logits`` (B, K, H, W), ``mask`` int64 (B, H, W) -> scalar in [0, 1]; 1 - their mean IoU for probabilities of 0 and 1.
    Sorts all pixels for every class: slower than the others, and larger in memory.

    Args:
        classes: average over those "present" in the truth, or "all" K, of which an absent one costs its largest error.
        per_image: the IoU of every image and their mean (over the images with a pixel that counts), instead of the
            batch's.
        ignore_index: mask value that does not count.
    """

    def __init__(
        self, classes: Literal["present", "all"] = "present", per_image: bool = False, ignore_index: int = 255
    ) -> None:
        super().__init__()
        self.classes, self.per_image, self.ignore_index = classes, per_image, ignore_index

    def _sets(self, x: Tensor) -> Tensor:
        """Flatten (B, K, H, W) to sets of pixels: (B, K, HW), one per image, or (1, K, BHW), one of the batch."""
        return x.flatten(2) if self.per_image else x.transpose(0, 1).flatten(1).unsqueeze(0)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        counted = mask != self.ignore_index
        truth, p = _one_hot(mask, counted, logits.shape[1]), logits.float().softmax(1)
        # Ignored pixels have no error: they are sorted last, after all terms of the sum, and add nothing.
        errors = torch.where(truth, 1 - p, p) * counted.unsqueeze(1)  # m(c), the errors of class c
        errors, order = self._sets(errors).sort(dim=-1, descending=True)
        truth = self._sets(truth).gather(-1, order)
        size = truth.sum(-1, keepdim=True, dtype=torch.int32)
        # The class's intersection and union if the i pixels of the largest errors are wrong and the others right.
        intersection = size - truth.cumsum(-1, dtype=torch.int32)
        union = size + (~truth).cumsum(-1, dtype=torch.int32)
        # g_i, definition 2: what the i-th error adds to 1 - intersection / union. It takes 1 from the intersection or adds
        # 1 to the union; written out, for the difference would cancel. The first error of an absent class adds 1, the
        # maximum.
        lost = torch.where(truth | (union == 1), 1.0, intersection.float() / (union - 1).clamp(min=1)) / union
        losses = (errors * lost).sum(-1)  # definition 2, (sets, K)
        judged = size.squeeze(-1) > 0
        if self.classes == "all":
            judged = self._sets(counted.unsqueeze(1)).any(-1).expand_as(judged)
        return _mean(_mean(losses, judged, dim=1), judged.any(1))


def needed_entries(loss: nn.Module) -> Sequence[str]:
    """Return the entries of the batch that a loss takes by name, beside logits and mask."""
    return loss.needs if isinstance(loss, NeedsEntries) else ()


def _names(losses: Sequence[nn.Module]) -> list[str]:
    """Return the losses' classes in snake_case, numbered from 1 if a class occurs more than once."""
    words = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    names = [re.sub(words, "_", type(loss).__name__).lower() for loss in losses]
    return [f"{n}_{names[: i + 1].count(n)}" if names.count(n) > 1 else n for i, n in enumerate(names)]


class Sum(nn.Module):
    """Weighted sum of losses, each logged under its name, times its weight.

    Returns a dict of scalars: the class's name in snake_case (``cross_entropy``, ``dice``; for a class that occurs twice
    ``dice_1``, ``dice_2``) -> weight * loss; the module adds them up. Members get the entries of the batch that they
    ``need`` by name.

    Args:
        losses: modules of (logits, mask) and their needed entries that return a scalar.
        weights: factor of each loss; None: 1.
    """

    def __init__(self, losses: list[nn.Module], weights: list[float] | None = None) -> None:
        super().__init__()
        weights = [1.0] * len(losses) if weights is None else weights
        if not losses or len(weights) != len(losses):
            raise UsageError(
                f"Sum must have one loss or more and a weight for each, got {len(losses)} losses and {len(weights)} weights"
            )
        self.losses, self.weights = nn.ModuleDict(dict(zip(_names(losses), losses, strict=True))), tuple(weights)
        self.needs = tuple(dict.fromkeys(key for loss in losses for key in needed_entries(loss)))
        ignored = {name: loss.ignore_index for name, loss in self.losses.items() if isinstance(loss, IgnoresIndex)}
        if len(set(ignored.values())) > 1:
            raise UsageError(f"the losses of Sum must have the same ignore_index, got {ignored}")
        if ignored:
            (self.ignore_index,) = set(ignored.values())

    def forward(self, logits: Tensor, mask: Tensor, **needed: Tensor) -> dict[str, Tensor]:
        return {
            name: weight * loss(logits, mask, **{key: needed[key] for key in needed_entries(loss)})
            for (name, loss), weight in zip(self.losses.items(), self.weights, strict=True)
        }
