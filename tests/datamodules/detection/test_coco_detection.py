"""CocoDetection: category ids with gaps, crowds, polygon and run-length masks, invalid JSON."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask

from darkroom.datamodules.detection.coco_detection import CocoDetection
from darkroom.datamodules.detection.formats.coco import parse_coco
from darkroom.datamodules.detection.formats.run_lengths import RunLengthMasks, read_masks, run_lengths
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import DetectionDataContract
from tests.fakes.boxes import coco_detection, grey


class TestCocoDetection(DetectionDataContract):
    val_is_test = True

    def build(self, tmp_path: Path, **kwargs: Any) -> CocoDetection:
        return CocoDetection(root=str(coco_detection(tmp_path / "data")), **kwargs)

    def test_labels_are_contiguous_and_map_to_category_ids(self, data: CocoDetection) -> None:
        assert data.class_names == ("cat", "dog", "toothbrush")
        assert data.category_ids == (3, 7, 90)

    def test_image_ids_are_those_of_file(self, data: CocoDetection) -> None:
        for sample in data.dataset("val"):
            assert sample["target"]["image_id"] == int(Path(sample["path"]).stem)

    def test_boxes_and_labels_match_objects(self, data: CocoDetection) -> None:
        for sample in data.dataset("val"):
            boxes, labels = sample["target"]["boxes"].int().tolist(), sample["target"]["labels"].tolist()
            for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
                inside = sample["image"][:, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].float().mean()
                assert inside == pytest.approx(grey(label, 3), abs=4)

    def test_crowds_are_excluded_from_training_only(self, data: CocoDetection) -> None:
        assert data.dataset("val")[0]["target"]["iscrowd"].tolist() == [False, True, False]
        assert data.dataset("train")[0]["target"]["iscrowd"].tolist() == [False, False]


class TestWithMasks(TestCocoDetection):
    def build(self, tmp_path: Path, **kwargs: Any) -> CocoDetection:
        return super().build(tmp_path, masks=True, **kwargs)

    def test_masks_fill_the_boxes(self, data: CocoDetection) -> None:
        for sample in data.dataset("val"):
            target = sample["target"]
            assert len(target["masks"]) == len(target["boxes"])
            for mask, (x0, y0, x1, y1) in zip(target["masks"], target["boxes"].int().tolist(), strict=True):
                assert mask[y0:y1, x0:x1].all()
                assert mask.sum() == (x1 - x0) * (y1 - y0)

    def test_masks_match_objects_without_crowds(self, data: CocoDetection) -> None:
        assert torch.equal(data.dataset("train")[0]["target"]["masks"].flatten(1).any(1), torch.tensor([True, True]))
        kept, all_of_them = data.dataset("train").annotations[0], data.annotations("train")[0]
        assert np.array_equal(kept.masks(), all_of_them.masks()[[0, 2]])

    def test_annotations_can_be_pickled(self, data: CocoDetection) -> None:
        dataset = pickle.loads(pickle.dumps(data.dataset("train")))
        assert torch.equal(dataset[1]["target"]["masks"], data.dataset("train")[1]["target"]["masks"])


def test_keep_empty_false_drops_training_images_without_objects(tmp_path: Path) -> None:
    data = CocoDetection(root=str(coco_detection(tmp_path)))
    assert [len(data.dataset(split)) for split in ("train", "val")] == [5, 5]
    data = CocoDetection(root=str(tmp_path), keep_empty=False)
    assert [len(data.dataset(split)) for split in ("train", "val")] == [4, 5]


def test_separate_test_split_is_used(tmp_path: Path) -> None:
    coco_detection(tmp_path, ("train2017", "val2017", "mine"))
    data = CocoDetection(root=str(tmp_path), test_images="mine", test_json="annotations/instances_mine.json")
    assert {path.parent.name for path in data.dataset("test").paths} == {"mine"}
    with pytest.raises(UsageError, match="data.test_images and data.test_json must be given together"):
        CocoDetection(test_images="mine")


def test_splits_with_different_categories_raise(tmp_path: Path) -> None:
    path = coco_detection(tmp_path) / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace('"cat"', '"lynx"'))
    with pytest.raises(DataError, match=r"instances_train2017\.json: the categories .*lynx.*must be those of"):
        CocoDetection(root=str(tmp_path)).dataset("train")


# --- masks ------------------------------------------------------------------------------------------------------------

DISC = np.hypot(*np.mgrid[-6:7, -8:9]) < 5  # (13, 17)


@pytest.mark.parametrize("kind", ["compressed", "bytes", "not compressed"])
def test_run_lengths_decode_to_mask(kind: str) -> None:
    runs = coco_mask.encode(np.asfortranarray(DISC.astype(np.uint8)))
    if kind == "compressed":
        runs = {**runs, "counts": runs["counts"].decode()}
    if kind == "not compressed":
        lengths = np.diff(np.flatnonzero(np.diff(DISC.T.ravel())) + 1, prepend=0, append=DISC.size)
        runs = {"size": [13, 17], "counts": lengths.tolist()}
    counts = run_lengths(runs, (13, 17))
    masks = RunLengthMasks((13, 17), (counts, counts))()
    assert masks.shape == (2, 13, 17)
    assert masks.dtype == np.uint8
    assert np.array_equal(masks, np.stack([DISC, DISC]))


def test_polygon_parts_form_one_mask() -> None:
    pieces = [[0, 0, 4, 0, 4, 4, 0, 4], [10, 6, 12, 6, 12, 9, 10, 9]]
    (mask,) = RunLengthMasks((13, 17), (run_lengths(pieces, (13, 17)),))()
    assert mask.sum() == 16 + 6
    assert mask[:4, :4].all()
    assert mask[6:9, 10:12].all()


def test_no_objects_give_empty_masks() -> None:
    assert RunLengthMasks((13, 17), ())().shape == (0, 13, 17)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [[]],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [1, 2, 3, 4, 5, 6],
        [["a"] * 6],
        "abc",
        None,
        {"size": [13, 17]},
        {"counts": [221]},
        {"size": [17, 13], "counts": [221]},
        {"size": [13, 17], "counts": [5, 3]},
        {"size": [13, 17], "counts": [5, 3000]},
        {"size": [13, 17], "counts": [-5, 226]},
        {"size": [13, 17], "counts": "~~~"},
    ],
    ids=str,
)
def test_unreadable_segmentation_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        run_lengths(wrong, (13, 17))
    (mask,), faults = read_masks([wrong], (13, 17))[0](), read_masks([wrong], (13, 17))[1]
    assert not mask.any()
    assert not faults[0].repaired


# --- invalid JSON -----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return coco_detection(tmp_path) / "annotations/instances_val2017.json"


def broken(path: Path, *where: Any, value: Any = None) -> Path:
    """Replace or remove the value at a path of keys."""
    content = json.loads(path.read_text())
    entry = content
    for key in where[:-1]:
        entry = entry[key]
    entry.pop(where[-1]) if value is None else entry.__setitem__(where[-1], value)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("images",), None, "json has no 'images'"),
        (("annotations",), None, "json has no 'annotations'"),
        (("categories",), {"1": "cat"}, "json: 'categories' must be list, got {'1': 'cat'}"),
        (("categories", 1, "id"), None, r"categories\[1\] has no 'id'"),
        (("categories", 1, "id"), 7, r"categories\[1\]: the id 7 is already that of 'dog'"),
        (("images", 2), "photo.jpg", r"images\[2\] has no 'id'"),
        (("images", 2, "id"), [2], r"images\[2\]: 'id' must be .*, got \[2\]"),
        (("images", 2, "id"), " ", r"images\[2\]: 'id' must be .*, got ' '"),
        (("images", 2, "id"), 7000, r"images\[2\]: the id 7000 is already that of an earlier image"),
        (("images", 2, "width"), None, r"images\[2\] has no 'width'"),
        (("images", 2, "file_name"), "gone.jpg", r"val2017/gone.jpg does not exist, but .*images\[2\]"),
        (("annotations", 2, "image_id"), 5, r"annotations\[2\]: image_id 5 is not among the image ids"),
        (("annotations", 2, "category_id"), 4, r"annotations\[2\]: category_id 4 is not among the category ids"),
        (("annotations", 2, "category_id"), None, r"annotations\[2\] has no 'category_id'"),
        (("annotations", 2, "bbox"), None, r"annotations\[2\] has no 'bbox'"),
        (
            ("annotations", 2, "bbox"),
            [1, 2, 3],
            r"annotations\[2\]: bbox must be \[x, y, width, height\], got \[1, 2, 3\]",
        ),
    ],
)
def test_invalid_json_entry_is_named(path: Path, where: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse_coco(broken(path, *where, value=value), path.parents[1] / "val2017", masks=True)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", [b"", b'{"images": [', b"\xff\xfe\xfa", b"hello"])
def test_invalid_json_is_named(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"instances_val2017\.json cannot be read as JSON"):
        CocoDetection(root=str(path.parents[1])).class_names  # noqa: B018


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations/instances_val2017\.json does not exist; check data.root"):
        CocoDetection(root=str(tmp_path)).num_classes  # noqa: B018


def test_segmentation_is_optional_without_masks(path: Path) -> None:
    broken(path, "annotations", 2, "segmentation")
    assert len(parse_coco(path, path.parents[1] / "val2017")) == 5


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 5, 0, 8], "has no area"),
        ([5, 5, -3, 8], "has a negative width or height"),
        ([5, 5, 500, 8], "reaches out of its image"),
    ],
)
def test_invalid_boxes_raise_or_are_dropped(path: Path, box: list[float], message: str) -> None:
    broken(path, "annotations", 0, "bbox", value=box)
    root = str(path.parents[1])
    with pytest.raises(DataError, match=rf"instances_val2017\.json: annotations\[0\] of 000000007000\.jpg {message}"):
        CocoDetection(root=root).dataset("val")
    with pytest.warns(UserWarning, match=f"dropped 1 of .*: 1 {message}"):
        dataset = CocoDetection(root=root, bad_boxes="drop", masks=True).dataset("val")
    assert dataset[0]["target"]["iscrowd"].tolist() == [True, False]
    assert len(dataset[0]["target"]["masks"]) == 2


BAD_SEGMENTATIONS = {
    "[]": ([], "has an empty segmentation"),
    "[[]]": ([[]], "has an empty segmentation"),
    "none": (None, "has an empty segmentation"),
    "a point": ([[1, 2]], "has a segmentation of less than three points"),
    "a point and a line": ([[1, 2], [1, 2, 3, 4]], "has a segmentation of less than three points"),
    "odd": ([[1, 2, 3, 4, 5, 6, 7]], "has an unreadable segmentation"),
    "another size": ({"size": [9, 9], "counts": [81]}, "has an unreadable segmentation"),
    "text": ([["1"] * 6], "has an unreadable segmentation"),
}


@pytest.mark.parametrize(("empty", "message"), BAD_SEGMENTATIONS.values(), ids=BAD_SEGMENTATIONS)
def test_objects_without_mask_raise_or_are_dropped(path: Path, empty: Any, message: str) -> None:
    broken(path, "annotations", 2, "segmentation", value=empty)
    root = str(path.parents[1])
    with pytest.raises(DataError, match=rf"annotations\[2\] of 000000007000\.jpg {message}.*data.bad_boxes to drop"):
        CocoDetection(root=root, masks=True).dataset("val")
    with pytest.warns(UserWarning, match=f"dropped 1 of .*: 1 {message}"):
        target = CocoDetection(root=root, masks=True, bad_boxes="drop").dataset("val")[0]["target"]
    assert (len(target["boxes"]), target["masks"].flatten(1).any(1).tolist()) == (2, [True, True])
    assert len(CocoDetection(root=root).dataset("val")[0]["target"]["boxes"]) == 3  # not needed for boxes


def test_null_segmentation_is_empty(path: Path) -> None:
    text = path.read_text()
    content = json.loads(text)
    content["annotations"][2]["segmentation"] = None
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="1 has an empty segmentation"):
        dataset = CocoDetection(root=str(path.parents[1]), masks=True, bad_boxes="clip").dataset("val")
    assert len(dataset[0]["target"]["masks"]) == 2


def test_polygon_loses_parts_of_less_than_three_points(path: Path) -> None:
    content = json.loads(path.read_text())
    expected = parse_coco(path, path.parents[1] / "val2017", masks=True)[0].masks()
    content["annotations"][0]["segmentation"].append([5, 5, 9, 9])
    path.write_text(json.dumps(content))
    root = str(path.parents[1])
    with pytest.raises(DataError, match=r"annotations\[0\] of .* has a part of less than three points"):
        CocoDetection(root=root, masks=True).dataset("val")
    with pytest.warns(UserWarning, match="repaired the masks of 1 of"):
        dataset = CocoDetection(root=root, masks=True, bad_boxes="drop").dataset("val")
    assert np.array_equal(dataset[0]["target"]["masks"], expected)


# --- fields as tools write them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "crowd"), [("0", False), (0.0, False), (False, False), ("1", True), (True, True)])
def test_iscrowd_is_read_by_value(path: Path, value: Any, crowd: bool) -> None:
    broken(path, "annotations", 0, "iscrowd", value=value)
    assert parse_coco(path, path.parents[1] / "val2017")[0].iscrowd[0] == crowd


def test_iscrowd_of_another_value_is_named(path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations\[0\]: iscrowd must be 0 or 1, got 'no'"):
        parse_coco(broken(path, "annotations", 0, "iscrowd", value="no"), path.parents[1] / "val2017")


def test_ids_as_text_and_floats_are_numbers(path: Path) -> None:
    expected = parse_coco(path, path.parents[1] / "val2017")
    content = json.loads(path.read_text())
    for image in content["images"]:
        image |= {"id": str(image["id"]), "width": float(image["width"])}
    for annotation in content["annotations"]:
        annotation |= {"image_id": float(annotation["image_id"]), "category_id": str(annotation["category_id"])}
    for category in content["categories"]:
        category["id"] = str(category["id"])
    path.write_text(json.dumps(content))
    read = parse_coco(path, path.parents[1] / "val2017")
    assert [(one.image_id, one.size, one.labels.tolist()) for one in read] == [
        (str(one.image_id), one.size, one.labels.tolist()) for one in expected
    ]


def test_area_of_json_is_scaled_with_the_image(path: Path) -> None:
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["area"] = 12.5
    path.write_text(json.dumps(content))
    data = CocoDetection(root=str(path.parents[1]), bad_boxes="drop", max_side=10)
    sample = data.dataset("val")[0]
    height, width = sample["size"].tolist()
    scale = sample["image"].shape[-2] / height * sample["image"].shape[-1] / width
    assert scale < 1
    torch.testing.assert_close(sample["target"]["area"], torch.full_like(sample["target"]["area"], 12.5 * scale))


@pytest.mark.parametrize("area", [-1, 1e30, "NaN", "wide"])
def test_area_beyond_any_image_is_refused(path: Path, area: Any) -> None:
    with pytest.raises(DataError, match=r"annotations\[0\]: area must be a (finite )?number"):
        parse_coco(broken(path, "annotations", 0, "area", value=area), path.parents[1] / "val2017")


@pytest.mark.parametrize("area", [0, "0", "", 0.0])
def test_area_that_no_tool_computed_is_that_of_the_box(path: Path, area: Any) -> None:
    assert parse_coco(broken(path, "annotations", 0, "area", value=area), path.parents[1] / "val2017")[0].area is None
