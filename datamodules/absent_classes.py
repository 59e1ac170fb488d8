"""Warn of classes that never occur in the truth, which training and averaged metrics leave out without a word."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from darkroom.datamodules.bad_samples import UNREADABLE
from darkroom.datamodules.io.read_images import IGNORE, ImageMaskPairs
from darkroom.errors import DataError

# Masks to read. Most data sets show every class in the first few.
MASKS = 64


def warn_of_absent_objects(labels: Iterable[np.ndarray], class_names: Sequence[str], split: str) -> None:
    """Warn of classes without an object in a split.

    Args:
        labels: int (N,) of each image, from 1.
        class_names: names of the labels.
        split: name of the split.
    """
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(class_names) + 1)[1:]
    absent = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if absent:
        occurring = {name: int(count) for name, count in zip(class_names, counts, strict=True) if count}
        rank_zero_warn(
            f"the {split} split has no object of {', '.join(absent)}; metrics leave these classes out. Objects by class: "
            f"{occurring}. Check data.class_names and the labels of the split"
        )


def warn_of_absent_values(masks: ImageMaskPairs, class_names: Sequence[str], split: str) -> None:
    """Warn of classes without a pixel in masks spread over a split.

    Args:
        masks: the split.
        class_names: names of the class ids.
        split: name of the split.

    Raises:
        DataError: the training masks of two classes have 0 and an ignored 255 alone.
    """
    missing, values, read = set(range(len(class_names))), set[int](), 0
    foreground: dict[int, Path] = {}  # by the value of the second class, 1 or 255: a mask with it alone
    may_be_mixed = len(class_names) == 2 and masks.mask_values == "index" and IGNORE in masks.ignore_values
    for index in np.unique(np.linspace(0, len(masks) - 1, min(MASKS, len(masks))).astype(int)):
        try:
            classes, raw = masks.read_classes(int(index))
        except UNREADABLE:  # reading the sample reports it
            continue
        read += 1
        present = set(np.unique(raw).tolist())
        missing -= set(np.unique(classes).tolist())
        values |= present
        may_be_mixed &= not {1, IGNORE} <= present  # a mask with both ignores 255 indeed
        for value in present & {1, IGNORE}:
            foreground.setdefault(value, masks.masks[int(index)])
        if not missing and not may_be_mixed:
            return
    if may_be_mixed and len(foreground) == 2:
        rank_zero_warn(
            f"{foreground[1]} has the value 1, {foreground[IGNORE]} has 255 instead, and no mask of the {split} split has "
            f"both; 255 is ignored. If both mean {class_names[1]}, set data.mask_values of ImageMaskFolder to nonzero"
        )
    if read == 0 or not missing:
        return
    ignored = sorted(missing & set(masks.ignore_values))
    reason = f"data.ignore_values has {ignored}, so these values are ignored" if ignored else "check data.class_names"
    if may_be_mixed and values == {0, IGNORE}:
        reason = f"255 is ignored; if it means {class_names[1]}, set data.mask_values of ImageMaskFolder to nonzero"
        if split == "train" and _have_only(masks, {0, IGNORE}):  # nothing but background to learn, with a perfect score
            raise DataError(
                f"the masks of the {split} split have the values 0 and 255 alone, such as {foreground[IGNORE]}, and "
                f"{reason}"
            )
    shown = ", ".join(f"{class_names[value]} (value {value})" for value in sorted(missing))
    rank_zero_warn(
        f"no pixel of {shown} in {read} of {len(masks)} masks of the {split} split; metrics leave classes without pixels "
        f"out. Values of the masks: {sorted(values)[:20]}; {reason}"
    )


def _have_only(masks: ImageMaskPairs, values: set[int]) -> bool:
    """Return whether no readable mask of a split has another value."""
    for index in range(len(masks)):
        try:
            raw = masks.read_classes(index)[1]
        except UNREADABLE:
            continue
        if not set(np.unique(raw).tolist()) <= values:
            return False
    return True
