"""YoloFolder: layouts, class names, polygons and invalid labels."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from darkroom.datamodules.detection.check_annotations import check_annotations
from darkroom.datamodules.detection.formats.yolo import parse_yolo, read_names
from darkroom.datamodules.detection.yolo_folder import YoloFolder
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import DetectionDataContract
from tests.fakes.boxes import grey, yolo_folder


class TestYoloFolder(DetectionDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> YoloFolder:
        return YoloFolder(root=str(yolo_folder(tmp_path / "data")), **kwargs)

    def test_class_names_are_read_from_yaml(self, data: YoloFolder) -> None:
        assert data.class_names == ("red", "green")

    def test_boxes_and_labels_match_objects(self, data: YoloFolder) -> None:
        for sample in data.dataset("val"):
            boxes, labels = sample["target"]["boxes"].round().int().tolist(), sample["target"]["labels"].tolist()
            for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
                assert (sample["image"][:, y0:y1, x0:x1] == grey(label, 2)).all()

    def test_image_without_labels_has_no_objects(self, data: YoloFolder) -> None:
        assert [len(sample["target"]["boxes"]) > 0 for sample in data.dataset("train")] == [True, True, False, True]


class TestPolygons(TestYoloFolder):
    def build(self, tmp_path: Path, **kwargs: Any) -> YoloFolder:
        return YoloFolder(root=str(yolo_folder(tmp_path / "data", polygons=True)), masks=True, **kwargs)

    def test_masks_fill_the_boxes(self, data: YoloFolder) -> None:
        for sample in data.dataset("val"):
            for mask, box in zip(sample["target"]["masks"], sample["target"]["boxes"], strict=True):
                x0, y0, x1, y1 = box.round().int().tolist()
                assert mask[y0:y1, x0:x1].all()
                assert mask.sum() == (x1 - x0) * (y1 - y0)


class TestFlat(DetectionDataContract):
    """One folder with random splits."""

    def build(self, tmp_path: Path, **kwargs: Any) -> YoloFolder:
        yolo_folder(tmp_path / "parts", count=10)
        for kind in ("images", "labels"):
            (tmp_path / "parts" / kind / "train").rename(tmp_path / kind)
        arguments = {"images_dir": "images", "labels_dir": "labels", "class_names": ["red", "green"]}
        return YoloFolder(root=str(tmp_path), val_fraction=0.2, test_fraction=0.3, **arguments, **kwargs)

    def test_random_splits_have_requested_sizes(self, data: YoloFolder) -> None:
        assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [5, 2, 3]


def roboflow(root: Path, yaml: str = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n") -> Path:
    """Write ``{train,valid,test}/{images,labels}`` and Roboflow's ``data.yaml``."""
    yolo_folder(root / "parts")
    for kind in ("images", "labels"):
        for split, name in {"train": "train", "val": "valid", "test": "test"}.items():
            (root / name).mkdir(exist_ok=True)
            (root / "parts" / kind / split).rename(root / name / kind)
    shutil.rmtree(root / "parts")
    more = "roboflow:\n  workspace: mine\n  version: 1\n"
    (root / "data.yaml").write_text(f"{yaml}\nnc: 2\nnames: ['red', 'green']\n\n{more}")
    return root


@pytest.mark.parametrize(
    "yaml",
    [
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n",
        "train: train/images\nval: valid/images\ntest: test/images\n",
        "path: /content/datasets/mine\ntrain: train/images\nval: valid/images\ntest: test/images\n",
        "path: ..\ntrain: data/train/images\nval: data/valid/images\ntest: data/test/images\n",
    ],
)
def test_folders_are_read_from_data_yaml(tmp_path: Path, yaml: str) -> None:
    data = YoloFolder(root=str(roboflow(tmp_path / "data", yaml)))
    folders = [data.dataset(split).paths[0].parent.resolve() for split in ("train", "val", "test")]
    assert folders == [tmp_path / "data" / name / "images" for name in ("train", "valid", "test")]
    assert all(len(data.dataset(split)[0]["target"]["boxes"]) for split in ("train", "val", "test"))


def test_options_replace_the_folders_of_data_yaml(tmp_path: Path) -> None:
    data = YoloFolder(
        root=str(roboflow(tmp_path, "train: x\nval: y\n")), images_dir="{split}/images", val="valid", test="valid"
    )
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [4, 4, 4]


def test_folder_that_data_yaml_states_and_that_is_missing_is_named(tmp_path: Path) -> None:
    root = str(roboflow(tmp_path, "train: ../train/images\nval: ../gone/images\n"))
    with pytest.raises(DataError, match=r"gone/images does not exist; .* val split, as .*data\.yaml states"):
        YoloFolder(root=root).dataset("val")
    with pytest.raises(DataError, match=r"data\.test, which may be the name of another split"):
        YoloFolder(root=root, test="exam").dataset("test")


def test_usual_folder_instead_of_the_stated_one_is_reported(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = yolo_folder(tmp_path) / "data.yaml"
    YoloFolder(root=str(tmp_path)).dataset("train")
    assert not [one for one in recwarn if "does not exist" in str(one.message)]
    path.write_text(path.read_text().replace("images/train", "/content/mine/train"))
    with pytest.warns(
        UserWarning, match=r"data\.yaml: the folder of train, such as /content/mine/train, does not exist"
    ):
        assert len(YoloFolder(root=str(tmp_path)).dataset("train")) == 4


@pytest.mark.parametrize("value", ["train.txt", "[a, b]"])
def test_lists_of_images_in_data_yaml_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(
        DataError, match=r"data\.yaml: train must be one folder of images, got .*; set data\.images_dir to one folder"
    ):
        YoloFolder(root=str(roboflow(tmp_path, f"train: {value}"))).dataset("train")


def test_images_and_labels_in_one_folder_are_split_at_random(tmp_path: Path) -> None:
    yolo_folder(tmp_path / "parts", count=10)
    for kind in ("images", "labels"):
        for path in (tmp_path / "parts" / kind / "train").iterdir():
            path.rename(tmp_path / path.name)
    (tmp_path / "classes.txt").write_text("red\ngreen\n")
    with pytest.raises(DataError, match=r"itself has images: --data\.images_dir \. splits at random"):
        YoloFolder(root=str(tmp_path), class_names=["red", "green"]).dataset("train")
    data = YoloFolder(root=str(tmp_path), images_dir=".", class_names=["red", "green"])
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [8, 1, 1]


def test_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nowhere/images/train does not exist; it must hold the images of the train split"
    ):
        YoloFolder(root=str(tmp_path / "nowhere"), class_names=["red"]).dataset("train")


def test_missing_split_is_named(tmp_path: Path) -> None:
    shutil.rmtree(yolo_folder(tmp_path) / "images/test")
    data = YoloFolder(root=str(tmp_path))
    data.setup("fit")
    with pytest.raises(
        DataError, match=r"images/test does not exist; .*the test split.*data.test, which may be the name"
    ):
        data.setup("test")
    data = YoloFolder(root=str(tmp_path), test="val")
    data.setup("test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images_dir": "images", "labels_dir": "labels/{split}"}, "both have {split}, or neither"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "leave images for training"),
        ({"val_fraction": -0.1}, "must be at least 0"),
    ],
)
def test_contradicting_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        YoloFolder(**arguments)


def test_label_file_without_image_is_named(tmp_path: Path) -> None:
    labels = yolo_folder(tmp_path) / "labels/train"
    (labels / "classes.txt").write_text("red\ngreen\n")
    assert len(YoloFolder(root=str(tmp_path)).dataset("train")) == 4
    (labels / "000.txt").rename(labels / "OOO.txt")
    with pytest.raises(DataError, match=r"labels/train/OOO\.txt has no image in .*images/train"):
        YoloFolder(root=str(tmp_path)).dataset("train")


def test_missing_labels_of_a_split_raise(tmp_path: Path) -> None:
    for path in (yolo_folder(tmp_path) / "labels/train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"labels/train has no labels"):
        YoloFolder(root=str(tmp_path)).dataset("train")
    (tmp_path / "labels/train").rmdir()
    with pytest.raises(DataError, match=r"labels/train does not exist; it must hold the labels of the train split"):
        YoloFolder(root=str(tmp_path)).dataset("train")


def test_images_with_same_stem_raise(tmp_path: Path) -> None:
    folder = yolo_folder(tmp_path) / "images/train"
    Image.new("RGB", (9, 9)).save(folder / "000.bmp")
    with pytest.raises(DataError, match=r"000\.bmp and .*000\.png have the same name"):
        YoloFolder(root=str(tmp_path)).dataset("train")


def test_error_without_split_folders_suggests_random_splits(tmp_path: Path) -> None:
    yolo_folder(tmp_path / "parts")
    for kind in ("images", "labels"):
        (tmp_path / "parts" / kind / "train").rename(tmp_path / kind)
    with pytest.raises(DataError, match="--data.images_dir images splits at random"):
        YoloFolder(root=str(tmp_path)).dataset("train")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["names: [a, 7]", "names:\n  1: 7\n  0: a\n", "nc: 2\nnames: ['a', '7']"])
def test_names_are_read_as_list_or_mapping(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    assert read_names(tmp_path / "data.yaml") == ("a", "7")


def test_names_that_look_like_truth_values_stay_text(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [yes, no, 0x1, ~]")
    assert read_names(tmp_path / "data.yaml") == ("yes", "no", "0x1", "~")


def test_labels_with_upper_case_ending_are_read(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        folder = tmp_path / "labels" / split
        folder.mkdir(parents=True)
        (tmp_path / "images" / split).mkdir(parents=True)
        Image.new("L", (20, 10)).save(tmp_path / "images" / split / "a.png")
        (folder / "a.TXT").write_text("0 0.5 0.5 0.4 0.4\n")
        (folder / "._a.txt").write_bytes(b"Mac OS X")
    data = YoloFolder(root=str(tmp_path), class_names=["cat"])
    assert data.dataset("train")[0]["target"]["labels"].tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a", "cannot be read as YAML"),
        ("nc: 2", "has no names; add them, or set data.class_names"),
        ("", "has no names"),
        ("names: {0: a, 2: b}", r"names must be numbered from 0 without gaps, got \['0', '2'\]"),
        ("names: {a: 0, 1: b}", r"names must be numbered from 0 without gaps, got \['a', '1'\]"),
        ("nc: 3\nnames: [a, b]", r"nc is 3, but there are 2 names, \['a', 'b'\]"),
        ("names: [a]\nkpt_shape: [17, 3]", "has kpt_shape, so its labels have keypoints"),
        ("names: []", "names must be a list of classes"),
        ("names: cat", "names must be a list of classes"),
        ("names: [[a], b]", "names must be a list of classes"),
        ("a", "must have keys such as names and train, got 'a'"),
    ],
)
def test_invalid_names_raise(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=rf"data\.yaml:? {message}"):
        read_names(tmp_path / "data.yaml")


def test_missing_names_raise(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"has no data\.yaml or dataset\.yaml with the names of the classes; set data.class_names"
    ):
        YoloFolder(root=str(tmp_path)).num_classes  # noqa: B018


# --- one file ---------------------------------------------------------------------------------------------------------


def parse(tmp_path: Path, text: str | bytes, **kwargs: Any) -> Any:
    (tmp_path / "a.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    return parse_yolo(tmp_path / "a.txt", tmp_path / "a.png", **kwargs)


def test_normalized_coordinates_become_pixels(tmp_path: Path) -> None:
    found = parse(tmp_path, "\ufeff3 0.5 0.5 1 1\r\n\n0 .25 .3 .1 .2\n1.0 0.1 0.2 0.3 0.2 0.2 0.9\n")
    assert found.size == (100, 200)
    assert found.boxes == pytest.approx(torch.tensor([[0, 0, 200, 100], [40, 20, 60, 40], [20, 20, 60, 90.0]]).numpy())
    assert found.labels.tolist() == [4, 1, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dog 0.5 0.5 0.1 0.1", "must have numbers alone .* got 'dog 0.5 0.5 0.1 0.1'"),
        ("0, 0.5, 0.5, 0.1, 0.1", "must have numbers alone .* got '0, "),
        ("0.5 0.5 0.5 0.1 0.1", r"the class must be a whole number from 0, got 0\.5"),
        ("nan 0.5 0.5 0.1 0.1", "the class must be a whole number from 0, got nan"),
        ("0 0.5 0.5 0.1", "has 3 numbers after the class"),
        ("0 0.5 0.5 0.1 0.1 0.9", "has 5 numbers after the class"),
        ("0", "has 0 numbers after the class"),
        ("0 120 50 20 20", "has 120.0, which looks like pixels"),
    ],
)
def test_invalid_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"a\.txt, line 3.* {message}"):
        parse(tmp_path, f"0 .5 .5 .1 .1\n\n{line}\n")


def test_binary_label_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt is not text"):
        parse(tmp_path, b"\xfa\xfb0 .5")


def test_box_without_polygon_raises_with_masks(tmp_path: Path) -> None:
    found = parse(tmp_path, "0 .5 .5 .1 .1\n1 .1 .1 .5 .1 .5 .5\n", masks=True)
    with pytest.raises(DataError, match=r"a\.txt: line 1 of a\.png is a box without a polygon.*; data.masks is true"):
        check_annotations([found], 2, "error", "train")
    with pytest.warns(UserWarning, match="dropped 1 of 2 boxes .* 1 is a box without a polygon"):
        (kept,) = check_annotations([found], 2, "drop", "train")
    assert kept.labels.tolist() == [2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 .5 .5 0 .2", "has no area"),
        ("0 .5 .5 -.1 .2", "has a negative width or height"),
        ("1 .9 .5 .4 .2", "reaches out of its image"),
        ("2 .5 .5 .1 .2", "has a class outside of 0 to 1"),
        ("-1 .5 .5 .1 .2", "has a class outside of 0 to 1"),
    ],
)
def test_invalid_boxes_raise_or_are_dropped(tmp_path: Path, line: str, message: str) -> None:
    path = yolo_folder(tmp_path) / "labels/train/000.txt"
    good = len(path.read_text().splitlines())
    path.write_text(path.read_text() + line)
    with pytest.raises(DataError, match=rf"000\.txt: line {good + 1} of 000\.png {message}"):
        YoloFolder(root=str(tmp_path)).dataset("train")
    with pytest.warns(UserWarning, match=f"dropped 1 of .* {message}"):
        dataset = YoloFolder(root=str(tmp_path), bad_boxes="drop").dataset("train")
    assert len(dataset[0]["target"]["boxes"]) == good


def test_labels_refer_to_rotated_photo(tmp_path: Path) -> None:
    image = Image.new("RGB", (200, 100))
    exif = image.getexif()
    exif[0x0112] = 8  # rotated by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("0 .5 .5 1 1")
    found = parse_yolo(tmp_path / "a.txt", tmp_path / "a.jpg")
    assert found.boxes.tolist() == [[0, 0, 100, 200]]


@pytest.mark.parametrize("every", [True, False])
def test_images_in_subfolders_are_counted(tmp_path: Path, every: bool) -> None:
    yolo_folder(tmp_path)
    images, labels = tmp_path / "images/train", tmp_path / "labels/train"
    (images / "day1").mkdir()
    moved = sorted(images.glob("*.*")) if every else sorted(images.glob("*.*"))[:1]
    for path in moved:
        (labels / f"{path.stem}.txt").unlink(missing_ok=True)
        path.rename(images / "day1" / path.name)
    message = f"train has {len(moved)} images in folders inside it, such as .*day1"
    data = YoloFolder(root=str(tmp_path))
    if every:
        with pytest.raises(DataError, match=message + ".*; move them up"):
            data.dataset("train")
    else:
        with pytest.warns(UserWarning, match=message + ".*; they are left out"):
            data.dataset("train")
