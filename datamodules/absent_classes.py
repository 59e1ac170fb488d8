"""Warn of classes that never occur in the truth, which training and averaged metrics leave out without a word."""

from collections.abc import Iterable, Sequence

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from darkroom.datamodules.bad_samples import UNREADABLE
from darkroom.datamodules.io.read_images import ImageMaskPairs

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
    """
    missing, values, read = set(range(len(class_names))), set[int](), 0
    for index in np.unique(np.linspace(0, len(masks) - 1, min(MASKS, len(masks))).astype(int)):
        try:
            classes, raw = masks.read_classes(int(index))
        except UNREADABLE:  # reading the sample reports it
            continue
        read += 1
        missing -= set(np.unique(classes).tolist())
        values |= set(np.unique(raw).tolist())
        if not missing:
            return
    if read == 0:
        return
    ignored = sorted(missing & set(masks.ignore_values))
    reason = f"data.ignore_values has {ignored}, so these values are ignored" if ignored else "check data.class_names"
    shown = ", ".join(f"{class_names[value]} (value {value})" for value in sorted(missing))
    rank_zero_warn(
        f"no pixel of {shown} in {read} of {len(masks)} masks of the {split} split; metrics leave classes without pixels "
        f"out. Values of the masks: {sorted(values)[:20]}; {reason}"
    )
