"""Check boxes, labels and masks of annotations; invalid ones are an error, clipped or dropped."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from darkroom.datamodules.detection.annotations import Annotation
from darkroom.errors import DataError

BadBoxes = Literal["error", "clip", "drop"]

# Pixels. Files round their boxes: a box that exceeds the border by at most this is clipped, otherwise it is invalid.
_SLACK = 1.0
_DROPPED, _CLIPPED, _REPAIRED = "dropped", "clipped", "repaired the masks of"


@dataclass(frozen=True)
class _Fault:
    """Fault of some objects of an image.

    Args:
        kind: the fault, as a predicate of an object.
        wrong: bool (N,), the objects that have it.
        advice: remark for the message.
        about: "box", "label" or "mask".
    """

    kind: str
    wrong: np.ndarray
    advice: str = ""
    about: Literal["box", "reach", "label", "mask", "part of a mask"] = "box"

    def action(self, bad_boxes: BadBoxes) -> str:
        """Return what happens to the objects if the fault does not raise."""
        if self.about == "part of a mask":
            return _REPAIRED
        return _CLIPPED if self.about == "reach" and bad_boxes == "clip" else _DROPPED


class _Report:
    """Counts of the faults of a split, with the place of the first object of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.first: dict[tuple[str, str], str] = {}

    def add(self, action: str, kind: str, place: str) -> None:
        """Count an object."""
        self.counts[action, kind] += 1
        self.first.setdefault((action, kind), place)

    def warn(self, total: int, split: str) -> None:
        """Warn of each action once."""
        for action in (_DROPPED, _CLIPPED, _REPAIRED):
            counts = {key: count for key, count in self.counts.items() if key[0] == action}
            if counts:
                reasons = "; ".join(f"{count} {key[1]} (first: {self.first[key]})" for key, count in counts.items())
                rank_zero_warn(f"{action} {sum(counts.values())} of {total} boxes of the {split} split: {reasons}")


def _box_faults(annotation: Annotation) -> Iterator[_Fault]:
    boxes, (height, width) = annotation.boxes, annotation.size
    low, high, limits = boxes[:, :2], boxes[:, 2:], np.array([width, height])
    finite = np.isfinite(boxes).all(1)
    yield _Fault("is not finite", ~finite)
    with np.errstate(invalid="ignore"):
        backwards = finite & (high < low).any(1)
        hidden = finite & ~(np.clip(high, 0, limits) > np.clip(low, 0, limits)).all(1)
        beyond = finite & ((low < -_SLACK).any(1) | (high > limits + _SLACK).any(1))
    yield _Fault(annotation.box_format.negative, backwards)
    yield _Fault("lies outside of its image", beyond & hidden)
    yield _Fault("reaches out of its image", beyond & ~hidden, about="reach")
    yield _Fault("has no area", hidden & ~beyond)


def _label_faults(annotation: Annotation, num_classes: int) -> Iterator[_Fault]:
    wrong = (annotation.labels < 1) | (annotation.labels > num_classes)
    if annotation.box_format.first_label == 0:
        kind = f"has a class outside of 0 to {num_classes - 1}"
        yield _Fault(kind, wrong, "; data.class_names, or the names in data.yaml, may lack a class", "label")
    else:
        kind = f"has a label outside of 1 to {num_classes} (0 is the background)"
        yield _Fault(kind, wrong, "; labels count from 1, and data.class_names may lack a class", "label")


def _mask_faults(annotation: Annotation) -> Iterator[_Fault]:
    for index, fault in annotation.mask_faults.items():
        detail = f"; {fault.detail}" if fault.detail else ""
        wrong = np.arange(len(annotation.boxes)) == index
        yield _Fault(fault.kind, wrong, detail, "part of a mask" if fault.repaired else "mask")


def _explain(annotation: Annotation, index: int, fault: _Fault, place: str) -> str:
    """Return the message about an object with a fault."""
    box, size, written = annotation.boxes[index], annotation.size, annotation.box_format
    hint = written.hint(box, size) if fault.about in ("box", "reach") and np.isfinite(box).all() else ""
    remedy = "clip or drop" if fault.about == "reach" else "drop"
    number = annotation.labels[index] - 1 + written.first_label
    name = "label" if written.first_label else "class"
    return (
        f"{place} {fault.kind}: {written.explain(box, size)}, {name} {number}, in an image of {size[1]} x {size[0]}"
        f"{fault.advice}{hint}; correct it, or set data.bad_boxes to {remedy}"
    )


def check_annotations(
    annotations: Sequence[Annotation], num_classes: int, bad_boxes: BadBoxes, split: str
) -> list[Annotation]:
    """Return the annotations with boxes clipped to the image; what is done with invalid ones is reported.

    Args:
        annotations: of the images of a split.
        num_classes: greatest label.
        bad_boxes: "error": raise for an invalid object; "drop": leave it out; "clip": leave it out unless a part of its box
            lies in the image. With both of the latter, polygons lose parts of less than three points.
        split: name of the split, for messages.

    Raises:
        DataError: an object is invalid and ``bad_boxes`` is "error"; the message has file, place and fault. Or no object
            has a mask although masks are loaded.
    """
    report, good = _Report(), []
    for annotation in annotations:
        bad = np.zeros(len(annotation.boxes), bool)
        for fault in (*_box_faults(annotation), *_label_faults(annotation, num_classes), *_mask_faults(annotation)):
            action = fault.action(bad_boxes)
            for index in np.flatnonzero(fault.wrong & ~bad):
                row = index if annotation.rows is None else annotation.rows[index]
                place = f"{annotation.source}: {annotation.box_format.place.format(row)} of {annotation.path.name}"
                if bad_boxes == "error":
                    raise DataError(_explain(annotation, int(index), fault, place))
                report.add(action, fault.kind, place)
            if action == _DROPPED:
                bad |= fault.wrong
        kept = annotation.select(~bad)
        limits = np.array([annotation.size[1], annotation.size[0]] * 2, np.float32)
        good.append(replace(kept, boxes=np.clip(kept.boxes, 0, limits), rows=None, mask_faults={}))
    _check_any_mask(annotations, split)
    report.warn(sum(len(annotation.boxes) for annotation in annotations), split)
    return good


def _check_any_mask(annotations: Sequence[Annotation], split: str) -> None:
    """Raise a DataError if all objects lack a mask: dropping all of them cannot be meant."""
    lacking = sum(not fault.repaired for one in annotations for fault in one.mask_faults.values())
    if lacking and lacking == sum(len(annotation.boxes) for annotation in annotations):
        raise DataError(
            f"{annotations[0].source}: none of the {lacking} objects of the {split} split has a mask that can be read, but "
            "data.masks is true; set it to false, or export polygons or run lengths"
        )
