"""Annotations: invalid boxes raise, or are dropped and counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.datamodules.detection.annotations import Annotation, check_annotations
from darkroom.errors import DataError


def annotation(boxes: list[list[float]], labels: list[int] | None = None, **kwargs: Any) -> Annotation:
    return Annotation(
        path=Path("photo.jpg"),
        size=(40, 60),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array([1] * len(boxes) if labels is None else labels, np.int64),
        image_id=0,
        source=Path("photo.xml"),
        **kwargs,
    )


GOOD = [5, 5, 20, 20]
BAD = {
    "zero width": ([30, 5, 30, 20], "has no area"),
    "zero height": ([30, 5, 40, 5], "has no area"),
    "all of it beyond the border": ([60.2, 5, 60.8, 20], "has no area"),
    "negative": ([30, 5, 20, 20], "ends before it begins"),
    "x, y, width, height": ([30, 20, 20, 10], "ends before it begins.*looks like x, y, width, height"),
    "left of the image": ([-2, 5, 20, 20], "reaches out of its image"),
    "below the image": ([5, 5, 20, 42], "reaches out of its image"),
    "x, y, width, height, too large": ([10, 35, 50, 30], "ends before it begins: "),
    "not a number": ([5, 5, float("nan"), 20], "is not finite"),
    "infinite": ([5, 5, float("inf"), 20], "is not finite"),
}


@pytest.mark.parametrize(("box", "reason"), BAD.values(), ids=BAD)
def test_invalid_box_is_named(box: list[float], reason: str) -> None:
    with pytest.raises(DataError, match=f"photo.xml: box 1 of photo.jpg {reason}") as caught:
        check_annotations([annotation([GOOD, box])], 2, "error", "train")
    assert "60 x 40" in str(caught.value)
    assert "data.bad_boxes" in str(caught.value)


def test_hint_about_width_and_height_needs_plausible_box() -> None:
    with pytest.raises(DataError) as caught:
        check_annotations(
            [annotation([[50, 30, 20, 20]])], 2, "error", "train"
        )  # as x, y, width, height it would leave the image
    assert "looks like" not in str(caught.value)


@pytest.mark.parametrize("label", [0, -1, 3])
def test_label_outside_of_classes_is_named(label: int) -> None:
    with pytest.raises(DataError, match=r"box 1 of photo.jpg has a label outside of 1 to 2 .*background") as caught:
        check_annotations([annotation([GOOD, GOOD], [1, label])], 2, "error", "train")
    assert "looks like" not in str(caught.value)
    assert "class number + 1" in str(caught.value)
    assert "data.class_names may lack a class" in str(caught.value)


def test_dropped_boxes_are_counted_and_removed_with_their_fields() -> None:
    boxes = [GOOD, *(box for box, _ in BAD.values()), [30, 5, 50, 20]]
    bad = annotation(
        boxes,
        labels=[1] * (len(boxes) - 1) + [2],
        difficult=np.arange(len(boxes)) > 0,
        iscrowd=np.arange(len(boxes)) == 0,
        masks=lambda: np.arange(len(boxes), dtype=np.uint8)[:, None, None],
    )
    reported = r"dropped 11 of 14 boxes of the val split: .*3 has no area \(first: photo.xml: box 1 of photo.jpg\)"
    with pytest.warns(UserWarning, match=reported):
        (kept, _) = check_annotations([bad, annotation([GOOD, GOOD], [0, 1])], 2, "drop", "val")
    assert kept.boxes.tolist() == [GOOD, [30, 5, 50, 20]]
    assert kept.labels.tolist() == [1, 2]
    assert kept.difficult.tolist() == [False, True]
    assert kept.iscrowd.tolist() == [True, False]
    assert kept.masks().ravel().tolist() == [0, len(boxes) - 1]


def test_rounded_boxes_are_clipped_at_border(recwarn: pytest.WarningsRecorder) -> None:
    (kept,) = check_annotations([annotation([[-1, -0.4, 61, 40.7]])], 1, "error", "train")
    assert kept.boxes.tolist() == [[0, 0, 60, 40]]
    assert not recwarn


def test_annotation_without_objects_is_valid() -> None:
    (kept,) = check_annotations([annotation([])], 1, "error", "train")
    assert kept.boxes.shape == (0, 4)
