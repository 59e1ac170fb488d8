"""Annotations: the objects of an image, and checks of their boxes and labels."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from darkroom.errors import DataError

# Pixels. Files round their boxes: a box that exceeds the border by at most this is clipped, otherwise it is invalid.
_SLACK = 1.0
_BACKWARDS, _OUTSIDE = "ends before it begins", "reaches out of its image"


@dataclass(frozen=True)
class Annotation:
    """Objects of one image.

    Args:
        path: file of the image.
        size: height and width of the image.
        boxes: float32 (N, 4), xyxy in pixels, pixel k reaching from k to k + 1.
        labels: int64 (N,), from 1.
        image_id: unique number of the image.
        source: file of the annotation, for messages.
        difficult, iscrowd: bool (N,), all False if None.
        area: float32 (N,), in pixels, which the size of an object is judged by; None: that of its mask or box.
        unmasked: bool (N,), objects without a mask although masks are loaded; None: all have one.
        masks: function that reads the masks, uint8 (N, H, W) of 0 and 1; worker processes must be able to import it.
    """

    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    image_id: int
    source: Path
    difficult: np.ndarray | None = None
    iscrowd: np.ndarray | None = None
    area: np.ndarray | None = None
    unmasked: np.ndarray | None = None
    masks: Callable[[], np.ndarray] | None = None

    def select(self, keep: np.ndarray) -> "Annotation":
        """Return the annotation with the objects where ``keep``, bool (N,), is True."""
        if keep.all():
            return self
        return replace(
            self,
            boxes=self.boxes[keep],
            labels=self.labels[keep],
            difficult=None if self.difficult is None else self.difficult[keep],
            iscrowd=None if self.iscrowd is None else self.iscrowd[keep],
            area=None if self.area is None else self.area[keep],
            unmasked=None if self.unmasked is None else self.unmasked[keep],
            masks=None if self.masks is None else _SelectedMasks(self.masks, keep),
        )


@dataclass(frozen=True)
class _SelectedMasks:
    """Reader of the masks of some of the objects."""

    read: Callable[[], np.ndarray]
    keep: np.ndarray

    def __call__(self) -> np.ndarray:
        return self.read()[self.keep]


def _find_faults(annotation: Annotation, num_classes: int) -> dict[str, np.ndarray]:
    """Return the boxes with each kind of fault: bool (N,) each."""
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
    """Explain a likely cause of a fault: a box that is x, y, width, height, or labels that start at 0."""
    if "label" in reason:
        return "; labels count from 1 (a YOLO file's class number + 1), and data.class_names may lack a class"
    if reason not in (_BACKWARDS, _OUTSIDE):
        return ""
    x, y, width, height = box
    fits = width > 0 and height > 0 and x >= 0 and y >= 0 and x + width <= size[1] and y + height <= size[0]
    return "; it looks like x, y, width, height, but must be x0, y0, x1, y1" if fits else ""


def check_annotations(
    annotations: Sequence[Annotation], num_classes: int, bad_boxes: Literal["error", "drop"], split: str
) -> list[Annotation]:
    """Return the annotations with boxes clipped to the image; invalid ones raise an error or are dropped.

    Raises:
        DataError: a box is invalid and ``bad`` is "error"; the message has file, number in the file from 0, and fault.
    """
    good: list[Annotation] = []
    dropped: Counter[str] = Counter()
    first: dict[str, str] = {}
    for annotation in annotations:
        bad = np.zeros(len(annotation.boxes), bool)
        for reason, wrong in _find_faults(annotation, num_classes).items():
            for index in np.flatnonzero(wrong & ~bad):
                box, label = annotation.boxes[index].tolist(), annotation.labels[index]
                place = f"{annotation.source}: box {index} of {annotation.path.name}"
                if bad_boxes == "error":
                    raise DataError(
                        f"{place} {reason}: {box}, label {label}, in an image of {annotation.size[1]} x "
                        f"{annotation.size[0]}{_hint(reason, annotation.boxes[index], annotation.size)}; correct it, or "
                        "set data.bad_boxes to drop"
                    )
                first.setdefault(reason, place)
                dropped[reason] += 1
            bad |= wrong
        kept = annotation.select(~bad)
        limits = np.array([annotation.size[1], annotation.size[0]] * 2, np.float32)
        good.append(replace(kept, boxes=np.clip(kept.boxes, 0, limits)))
    if dropped:
        total = sum(len(annotation.boxes) for annotation in annotations)
        reasons = "; ".join(f"{count} {reason} (first: {first[reason]})" for reason, count in dropped.items())
        rank_zero_warn(f"dropped {dropped.total()} of {total} boxes of the {split} split: {reasons}")
    return good
