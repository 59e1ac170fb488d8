"""CocoDetection on folders as Roboflow and CVAT export them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.datamodules.detection.coco_detection import CocoDetection
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import DetectionDataContract

ROBOFLOW = [
    {"id": 0, "name": "pets", "supercategory": "none"},
    {"id": 1, "name": "cat", "supercategory": "pets"},
    {"id": 2, "name": "dog", "supercategory": "pets"},
]


def write(path: Path, images: Path, categories: list[dict[str, Any]], ids: list[int], count: int = 3) -> None:
    """Write a JSON whose images have an object of each category in ``ids``, and the images."""
    images.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    entries, objects = [], []
    for number in range(count):
        name = f"{path.parent.name}_{number}.png"
        Image.new("RGB", (60, 40), (number, 9, 9)).save(images / name)
        entries.append({"id": number, "file_name": name, "width": 60, "height": 40, "license": 1})
        for row, key in enumerate(ids):
            box = {"bbox": [5 + row, 5, 20, 10], "area": 200, "segmentation": [], "iscrowd": 0}
            objects.append({"id": len(objects), "image_id": number, "category_id": key, **box})
    path.write_text(json.dumps({"images": entries, "annotations": objects, "categories": categories}))


def roboflow(
    root: Path, categories: list[dict[str, Any]] = ROBOFLOW, train: tuple[int, ...] = (1, 2)
) -> dict[str, str]:
    """Write Roboflow's export and return the options that name its files."""
    options = {"root": str(root)}
    for split, folder in {"train": "train", "val": "valid", "test": "test"}.items():
        ids = list(train if split == "train" else (1, 2))
        write(root / folder / "_annotations.coco.json", root / folder, categories, ids)
        options |= {f"{split}_json": f"{folder}/_annotations.coco.json", f"{split}_images": folder}
    return options


def cvat(root: Path, count: int = 10) -> Path:
    """Write ``annotations/instances_default.json`` and ``images/default``."""
    categories = [{"id": 1, "name": "cat", "supercategory": ""}, {"id": 2, "name": "dog", "supercategory": ""}]
    write(root / "annotations/instances_default.json", root / "images/default", categories, [1, 2], count)
    return root


ONE_JSON = {"train_json": "annotations/instances_default.json", "train_images": "images/default", "val_json": None}


class TestRandomSplits(DetectionDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> CocoDetection:
        root = str(cvat(tmp_path / "data"))
        return CocoDetection(root=root, val_fraction=0.2, test_fraction=0.3, **ONE_JSON, **kwargs)

    def test_splits_are_disjoint_fractions(self, data: CocoDetection) -> None:
        names = [{path.name for path in data.dataset(split).paths} for split in ("train", "val", "test")]
        assert list(map(len, names)) == [5, 2, 3]
        assert len(set.union(*names)) == 10

    def test_another_seed_splits_otherwise(self, data: CocoDetection) -> None:
        other = CocoDetection(root=str(data.root), val_fraction=0.2, test_fraction=0.3, seed=1, **ONE_JSON)
        assert other.dataset("train").paths != data.dataset("train").paths


def test_own_test_file_leaves_a_random_validation_split(tmp_path: Path) -> None:
    cvat(tmp_path)
    files = {"test_json": "annotations/instances_default.json", "test_images": "images/default"}
    data = CocoDetection(root=str(tmp_path), val_fraction=0.2, **ONE_JSON, **files)
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [8, 2, 10]


def test_fractions_must_leave_training_images() -> None:
    with pytest.raises(UsageError, match=r"data\.\*_fraction must be at least 0 and leave images for training"):
        CocoDetection(val_json=None, val_fraction=1.0)
    with pytest.raises(UsageError, match=r"data\.val_images must be a folder"):
        CocoDetection(val_images=None)


# --- categories -------------------------------------------------------------------------------------------------------


def test_unused_name_of_the_project_is_left_out(tmp_path: Path) -> None:
    data = CocoDetection(**roboflow(tmp_path))
    assert (data.class_names, data.category_ids) == (("cat", "dog"), (1, 2))
    data.setup("fit")
    data.setup("test")
    assert data.dataset("train")[0]["target"]["labels"].tolist() == [1, 2]


def test_project_named_like_a_class_is_left_out(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "cat", "supercategory": "none"}, *ROBOFLOW[1:]]
    assert CocoDetection(**roboflow(tmp_path, categories)).category_ids == (1, 2)


def test_group_with_objects_in_any_split_stays_a_class(tmp_path: Path) -> None:
    data = CocoDetection(**roboflow(tmp_path, train=(0, 1, 2)))
    assert data.class_names == ("pets", "cat", "dog")


def test_class_without_objects_stays_if_its_name_is_its_own(tmp_path: Path) -> None:
    categories = [*ROBOFLOW, {"id": 3, "name": "bird", "supercategory": "pets"}]
    assert CocoDetection(**roboflow(tmp_path, categories)).class_names == ("cat", "dog", "bird")


def test_two_classes_of_one_name_with_objects_are_refused(tmp_path: Path) -> None:
    categories = [*ROBOFLOW[:2], {"id": 2, "name": "cat", "supercategory": "pets"}]
    with pytest.raises(UsageError, match="'cat'.* more than once"):
        CocoDetection(**roboflow(tmp_path, categories)).setup("fit")


# --- remedies ---------------------------------------------------------------------------------------------------------


def advised(root: Path) -> dict[str, Any]:
    """Return the options that the error about a missing JSON names."""
    with pytest.raises(DataError, match=r"instances_val2017\.json does not exist") as caught:
        CocoDetection(root=str(root)).setup("fit")
    options = re.findall(r"--data\.(\S+) (\S+)", str(caught.value))
    return {name: None if value == "null" else value for name, value in options}


def test_error_names_the_options_for_one_json(tmp_path: Path) -> None:
    assert advised(cvat(tmp_path)) == ONE_JSON
    CocoDetection(root=str(tmp_path), **ONE_JSON).setup("fit")


def test_error_names_the_options_for_a_json_per_split(tmp_path: Path) -> None:
    options = roboflow(tmp_path)
    assert advised(tmp_path) | {"root": str(tmp_path)} == options


def test_error_in_an_empty_folder_names_no_options(tmp_path: Path) -> None:
    assert advised(tmp_path) == {}
    (tmp_path / "settings.json").write_text("{}")
    assert advised(tmp_path) == {}


# --- ids --------------------------------------------------------------------------------------------------------------


def test_image_under_two_ids_is_refused(tmp_path: Path) -> None:
    path = cvat(tmp_path) / "annotations/instances_default.json"
    content = json.loads(path.read_text())
    content["images"][4]["file_name"] = content["images"][1]["file_name"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"images\[4\]: annotations_1\.png has the id 4, but also 1,"):
        CocoDetection(root=str(tmp_path), **ONE_JSON).dataset("train")


@pytest.mark.parametrize("key", ["frame_{}", "{}", "0{}"])
def test_text_ids_of_images_are_kept(tmp_path: Path, key: str) -> None:
    path = cvat(tmp_path) / "annotations/instances_default.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["id"] = key.format(image["id"])
    for annotation in content["annotations"]:
        annotation["image_id"] = key.format(annotation["image_id"])
    path.write_text(json.dumps(content))
    data = CocoDetection(root=str(tmp_path), val_fraction=0, test_fraction=0, **ONE_JSON)
    targets = [sample["target"] for sample in data.dataset("train")]
    assert [target["image_id"] for target in targets] == [key.format(number) for number in range(10)]
    assert all(len(target["boxes"]) == 2 for target in targets)
