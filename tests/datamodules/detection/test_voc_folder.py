"""VOCFolder: XML files as LabelImg, CVAT and Roboflow write them."""

from pathlib import Path
from typing import Any

import pytest

from darkroom.datamodules.detection.voc_folder import VOCFolder
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import DetectionDataContract
from tests.fakes.boxes import grey, voc_folder

SPLITS = ("train", "val", "test")


class TestVOCFolder(DetectionDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> VOCFolder:
        return VOCFolder(root=str(voc_folder(tmp_path)), val_fraction=0.2, test_fraction=0.3, **kwargs)

    def test_classes_are_the_sorted_names_of_the_files(self, data: VOCFolder) -> None:
        assert data.class_names == ("cat", "dog")

    def test_splits_have_requested_sizes(self, data: VOCFolder) -> None:
        assert [len(data.dataset(split)) for split in SPLITS] == [5, 2, 3]

    def test_boxes_are_those_that_were_drawn(self, data: VOCFolder) -> None:
        for sample in data.dataset("train"):
            boxes, labels = sample["target"]["boxes"].int().tolist(), sample["target"]["labels"].tolist()
            for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
                assert (sample["image"][:, y0:y1, x0:x1] == grey(label, 2)).all()


@pytest.mark.parametrize(
    ("images", "annotations"),
    [("images", "annotations"), ("JPEGImages", "Annotations"), ("images", "images"), (".", ".")],
)
def test_known_folders_need_no_options(tmp_path: Path, images: str, annotations: str) -> None:
    voc_folder(tmp_path / "flat")
    for path in (tmp_path / "flat").iterdir():
        folder = tmp_path / "data" / (annotations if path.suffix == ".xml" else images)
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    data = VOCFolder(root=str(tmp_path / "data"))
    assert [len(data.dataset(split)) for split in SPLITS] == [8, 1, 1]
    assert len(data.dataset("train")[0]["target"]["boxes"])


def test_folders_per_split_are_read_and_named_by_the_error(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "valid", "test")):
        voc_folder(tmp_path / split, ("cat", "dog", "bird")[: seed + 1], seed=seed)
    with pytest.raises(DataError, match=r"train has XML files: --data\.images_dir {split} --data\.val valid$"):
        VOCFolder(root=str(tmp_path)).dataset("train")
    data = VOCFolder(root=str(tmp_path), images_dir="{split}", val="valid")
    assert data.class_names == ("bird", "cat", "dog")
    assert [{path.parent.name for path in data.dataset(split).paths} for split in SPLITS] == [
        {"train"},
        {"valid"},
        {"test"},
    ]


def test_named_classes_keep_their_order_and_others_can_be_ignored(tmp_path: Path) -> None:
    root = str(voc_folder(tmp_path))
    assert VOCFolder(root=root, class_names=["dog", "cat"]).class_names == ("dog", "cat")
    only = VOCFolder(root=root, ignore_classes=["cat"])
    assert only.class_names == ("dog",)
    assert {label for one in only.dataset("train") for label in one["target"]["labels"].tolist()} == {1}
    with pytest.raises(DataError, match=r"is 'dog', which is not in data\.class_names \['cat'\]"):
        VOCFolder(root=root, class_names=["cat"]).dataset("train")


def test_images_without_xml_are_background_with_a_warning(tmp_path: Path) -> None:
    (voc_folder(tmp_path, count=4) / "002.xml").unlink()
    data = VOCFolder(root=str(tmp_path), val_fraction=0, test_fraction=0)
    with pytest.warns(UserWarning, match=r"1 of 4 images of the train split have no XML file, such as .*002\.png"):
        dataset = data.dataset("train")
    assert [len(one["target"]["boxes"]) > 0 for one in dataset] == [True, True, False, True]


def test_xml_without_image_is_named(tmp_path: Path) -> None:
    (voc_folder(tmp_path, count=4) / "002.png").unlink()
    with pytest.raises(DataError, match=r"002\.xml has no image in .*, as have 0 others"):
        VOCFolder(root=str(tmp_path)).dataset("train")


def test_hidden_and_upper_case_files(tmp_path: Path) -> None:
    voc_folder(tmp_path, count=4)
    (tmp_path / "001.xml").rename(tmp_path / "001.XML")
    (tmp_path / "._000.xml").write_bytes(b"Mac OS X")
    data = VOCFolder(root=str(tmp_path), val_fraction=0, test_fraction=0)
    assert all(len(one["target"]["boxes"]) for one in data.dataset("train"))


def test_damaged_xml_is_skipped_if_asked_for(tmp_path: Path) -> None:
    (voc_folder(tmp_path, count=4) / "001.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"001\.xml cannot be read as XML"):
        VOCFolder(root=str(tmp_path)).class_names  # noqa: B018
    data = VOCFolder(root=str(tmp_path), on_bad_sample="skip", val_fraction=0, test_fraction=0)
    assert len(data.dataset("train")) == 3


def test_object_without_name_is_refused(tmp_path: Path) -> None:
    path = voc_folder(tmp_path, count=4) / "001.xml"
    path.write_text(path.read_text().replace("<name>cat</name>", "<name/>").replace("<name>dog</name>", "<name/>"))
    with pytest.raises(DataError, match=r"001\.xml: object 0 has no <name>"):
        VOCFolder(root=str(tmp_path)).class_names  # noqa: B018


def test_folder_without_xml_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no XML files of the train split in .*annotations or .*; check data\.root"):
        VOCFolder(root=str(tmp_path)).num_classes  # noqa: B018
    (tmp_path / "VOCdevkit").mkdir()
    with pytest.raises(DataError, match="has lists of the splits: --data VOCDetection"):
        VOCFolder(root=str(tmp_path)).num_classes  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"annotations_dir": "xml"}, r"data\.images_dir must be given"),
        ({"images_dir": "{split}", "annotations_dir": "xml"}, "both have {split}, or neither"),
        ({"class_names": ["a"], "ignore_classes": ["a"]}, r"both have \['a'\]"),
        ({"masks": True}, r"data\.masks must be false"),
        ({"val_fraction": 1.0}, "leave images for training"),
    ],
)
def test_contradicting_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        VOCFolder(**arguments)
