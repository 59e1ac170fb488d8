"""Annotations: invalid boxes raise, or are dropped and counted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.datamodules.detection.annotations import Annotation, MaskFault
from darkroom.datamodules.detection.check_annotations import check_annotations
from darkroom.datamodules.detection.formats.boxes import COCO, VOC, YOLO
from darkroom.datamodules.detection.formats.coco import parse_coco
from darkroom.datamodules.detection.formats.voc import parse_voc
from darkroom.datamodules.detection.formats.yolo import parse_yolo
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
    "far from the image": ([70, 5, 90, 20], "lies outside of its image"),
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
    reported = r"dropped 12 of 15 boxes of the val split: .*3 has no area \(first: photo.xml: box 1 of photo.jpg\)"
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


# --- clipped ----------------------------------------------------------------------------------------------------------


def test_clip_keeps_the_visible_part_of_boxes() -> None:
    boxes = [GOOD, [-20, 5, 20, 50], [70, 5, 90, 20], [30, 5, 20, 20]]
    with pytest.warns(UserWarning, match="of 4 boxes") as caught:
        (kept,) = check_annotations([annotation(boxes, [1, 2, 1, 1])], 2, "clip", "train")
    assert kept.boxes.tolist() == [GOOD, [0, 5, 20, 40]]
    assert kept.labels.tolist() == [1, 2]
    assert [str(one.message) for one in caught] == [
        "dropped 2 of 4 boxes of the train split: 1 ends before it begins (first: photo.xml: box 3 of photo.jpg); 1 lies "
        "outside of its image (first: photo.xml: box 2 of photo.jpg)",
        "clipped 1 of 4 boxes of the train split: 1 reaches out of its image (first: photo.xml: box 1 of photo.jpg)",
    ]


def test_error_about_box_that_reaches_out_offers_clip() -> None:
    with pytest.raises(DataError, match=r"reaches out of its image.*set data\.bad_boxes to clip or drop"):
        check_annotations([annotation([[-20, 5, 20, 50]])], 1, "error", "train")


@pytest.mark.parametrize("bad_boxes", ["clip", "drop"])
def test_masks_without_a_valid_part_are_dropped(bad_boxes: Any) -> None:
    faults = {0: MaskFault("has a thin part", repaired=True), 1: MaskFault("has an empty segmentation")}
    masked = annotation([GOOD, [1, 1, 9, 9]], masks=lambda: np.arange(2)[:, None, None], mask_faults=faults)
    with pytest.warns(UserWarning, match="repaired the masks of 1 of 2 boxes .* 1 has a thin part"):
        (kept,) = check_annotations([masked], 1, bad_boxes, "train")
    assert kept.boxes.tolist() == [GOOD]
    assert kept.masks().ravel().tolist() == [0]


def test_split_without_any_mask_raises_even_if_objects_are_dropped() -> None:
    faults = {0: MaskFault("has an empty segmentation")}
    with pytest.raises(DataError, match=r"none of the 1 objects of the val split has a mask.*data\.masks is true"):
        check_annotations([annotation([GOOD], mask_faults=faults)], 1, "drop", "val")


# --- values as in the file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box_format", "box", "values", "hint"),
    [
        (VOC, [30, 20, 20, 10], "object 4.*x0, y0, x1, y1 = 30, 20, 20, 10", "looks like x, y, width, height"),
        (
            COCO,
            [30, 10, 75, 35],
            r"annotations\[4\].*x, y, width, height = 30, 10, 45, 25",
            "looks like x0, y0, x1, y1",
        ),
        (YOLO, [27, 14, 87, 38], "line 4.*cx, cy, w, h = 0.95, 0.65, 1, 0.6,", None),
        (YOLO, [6, 16, 42, 44], "line 4.*cx, cy, w, h = 0.4, 0.75, 0.6, 0.7,", None),
        (YOLO, [6, 10, 66, 42], "line 4.*cx, cy, w, h = 0.6, 0.65, 1, 0.8,", "looks like fractions x0, y0, x1, y1"),
        (YOLO, [36, 5, 24, 15], "line 4.*has a negative width or height: cx, cy, w, h = 0.5, 0.25, -0.2, 0.25", None),
    ],
)
def test_message_has_values_and_words_of_the_file(box_format: Any, box: list, values: str, hint: str | None) -> None:
    with pytest.raises(DataError, match=values) as caught:
        check_annotations([annotation([box], rows=np.array([4]), box_format=box_format)], 1, "error", "train")
    assert ("looks like" in str(caught.value)) == (hint is not None)
    assert hint is None or hint in str(caught.value)


def test_message_about_class_of_yolo_counts_from_0() -> None:
    with pytest.raises(DataError, match="has a class outside of 0 to 1: .*, class 2, .*names in data.yaml"):
        check_annotations([annotation([GOOD], [3], box_format=YOLO)], 2, "error", "train")


def _voc(folder: Path, image: Path) -> Annotation:
    corners = "<xmin>-9</xmin><ymin>6</ymin><xmax>20</xmax><ymax>60</ymax>"
    (folder / "a.xml").write_text(
        f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
    )
    return parse_voc(folder / "a.xml", image, ["cat"])


def _coco(folder: Path, image: Path) -> Annotation:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [-10, 5, 30, 55]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    return parse_coco(folder / "a.json", folder)[0]


def _yolo(folder: Path, image: Path) -> Annotation:
    (folder / "a.txt").write_text(f"0 {5 / 60} {32.5 / 40} {30 / 60} {55 / 40}")
    return parse_yolo(folder / "a.txt", image)


@pytest.mark.parametrize("write", [_voc, _coco, _yolo])
def test_every_reader_clips_alike(tmp_path: Path, write: Any) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    read = write(tmp_path, tmp_path / "a.png")
    with pytest.warns(UserWarning, match="clipped 1 of 1 boxes"):
        (clipped,) = check_annotations([read], 1, "clip", "train")
    assert clipped.boxes.tolist() == [[0, 5, 20, 40]]
    with pytest.warns(UserWarning, match="dropped 1 of 1 boxes .* 1 reaches out of its image"):
        (dropped,) = check_annotations([read], 1, "drop", "train")
    assert len(dropped.boxes) == 0
