"""Annotations: what a data set says about the objects in a picture, and whether that can be true."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from darkroom.errors import DataError

# Files round their boxes: this far beyond the border of its picture a box is cut, farther it is wrong.
_SLACK = 1.0
_BACKWARDS, _OUTSIDE = "ends before it begins", "reaches out of its picture"


@dataclass(frozen=True)
class Annotation:
    """The objects of one picture.

    Args:
        path: the picture's file.
        size: its height and width.
        boxes: float32 (N, 4), xyxy in pixels, pixel k reaching from k to k + 1.
        labels: int64 (N,), from 1.
        image_id: a number of its own.
        source: the file that says all this, for messages.
        difficult, iscrowd: bool (N,), all False if None.
        unmasked: bool (N,), objects of which no mask was drawn, though masks were asked for; None: there is none.
        masks: reads them, uint8 (N, H, W) of 0 and 1; a function that worker processes can import.
    """

    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    image_id: int
    source: Path
    difficult: np.ndarray | None = None
    iscrowd: np.ndarray | None = None
    unmasked: np.ndarray | None = None
    masks: Callable[[], np.ndarray] | None = None

    def only(self, keep: np.ndarray) -> "Annotation":
        """The same without some of its objects; ``keep`` is bool (N,)."""
        if keep.all():
            return self
        flags = {name: getattr(self, name) for name in ("difficult", "iscrowd", "unmasked")}
        flags = {name: None if flag is None else flag[keep] for name, flag in flags.items()}
        masks = None if self.masks is None else _Rows(self.masks, keep)
        return replace(self, boxes=self.boxes[keep], labels=self.labels[keep], masks=masks, **flags)


@dataclass(frozen=True)
class _Rows:
    """Some rows of what a function reads."""

    read: Callable[[], np.ndarray]
    keep: np.ndarray

    def __call__(self) -> np.ndarray:
        return self.read()[self.keep]


def _faults(annotation: Annotation, num_classes: int) -> dict[str, np.ndarray]:
    """What may be wrong with boxes, and with which: bool (N,) each."""
    boxes, (height, width) = annotation.boxes, annotation.size
    low, high, limits = boxes[:, :2], boxes[:, 2:], np.array([width, height])
    finite = np.isfinite(boxes).all(1)
    with np.errstate(invalid="ignore"):
        visible = np.clip(high, 0, limits) - np.clip(low, 0, limits)
        return {
            "is not finite": ~finite,
            _BACKWARDS: finite & (high < low).any(1),
            _OUTSIDE: finite & ((low < -_SLACK).any(1) | (high > limits + _SLACK).any(1)),
            "has no area": finite & (visible == 0).any(1),
            f"has a label outside of 1 to {num_classes} (0 is the background)": (annotation.labels < 1)
            | (annotation.labels > num_classes),
            "has an empty segmentation": np.zeros(len(boxes), bool)
            if annotation.unmasked is None
            else annotation.unmasked,
        }


def _hint(reason: str, box: np.ndarray, size: tuple[int, int]) -> str:
    """What may have led to a fault: a box that is x, y, width, height, or labels that count otherwise."""
    if "label" in reason:
        return "; labels count from 1 (a YOLO file's class number + 1), and data.class_names may lack a class"
    if reason not in (_BACKWARDS, _OUTSIDE):
        return ""
    x, y, width, height = box
    fits = width > 0 and height > 0 and x >= 0 and y >= 0 and x + width <= size[1] and y + height <= size[0]
    return "; it looks like x, y, width, height, but should be x0, y0, x1, y1" if fits else ""


def checked(
    annotations: Sequence[Annotation], num_classes: int, bad_boxes: Literal["error", "drop"], split: str
) -> list[Annotation]:
    """The annotations, their boxes cut at the border of the picture, those that cannot be true refused or dropped.

    Raises:
        DataError: with "error", for the first bad box: its file, its number in the file from 0, and what is wrong.
    """
    good: list[Annotation] = []
    dropped: Counter[str] = Counter()
    first: dict[str, str] = {}
    for annotation in annotations:
        bad = np.zeros(len(annotation.boxes), bool)
        for reason, wrong in _faults(annotation, num_classes).items():
            for index in np.flatnonzero(wrong & ~bad):
                box, label = annotation.boxes[index].tolist(), annotation.labels[index]
                place = f"{annotation.source}: box {index} of {annotation.path.name}"
                if bad_boxes == "error":
                    raise DataError(
                        f"{place} {reason}: {box}, label {label}, in a picture of {annotation.size[1]} x "
                        f"{annotation.size[0]}{_hint(reason, annotation.boxes[index], annotation.size)}; mend it, or set "
                        "data.bad_boxes to drop"
                    )
                first.setdefault(reason, place)
                dropped[reason] += 1
            bad |= wrong
        kept = annotation.only(~bad)
        limits = np.array([annotation.size[1], annotation.size[0]] * 2, np.float32)
        good.append(replace(kept, boxes=np.clip(kept.boxes, 0, limits)))
    if dropped:
        total = sum(len(annotation.boxes) for annotation in annotations)
        reasons = "; ".join(f"{count} {reason} (first: {first[reason]})" for reason, count in dropped.items())
        rank_zero_warn(f"dropped {dropped.total()} of {total} boxes of the {split} split: {reasons}")
    return good
