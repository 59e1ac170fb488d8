"""VOCDetection: one-based pixels, difficult objects, several years, invalid files and downloads."""

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.datamodules.detection import voc_detection as module
from darkroom.datamodules.detection.formats.voc import parse_voc
from darkroom.datamodules.detection.voc_detection import VOCDetection
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import DetectionDataContract
from tests.fakes import boxes as fakes

NAMES = ("cat", "dog")
HEAD = "<size><width>20</width><height>10</height></size>"


class TestVOCDetection(DetectionDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> VOCDetection:
        return VOCDetection(root=str(fakes.voc_detection(tmp_path / "data")), **kwargs)

    def test_default_classes_are_those_of_voc(self, data: VOCDetection) -> None:
        assert (data.num_classes, data.class_names[0], data.class_names[14]) == (20, "aeroplane", "person")

    def test_difficult_objects_are_excluded_from_training_by_default(self, data: VOCDetection) -> None:
        assert data.dataset("val")[0]["target"]["difficult"].tolist() == [False, False, True]
        assert len(data.dataset("train")[0]["target"]["boxes"]) == 2
        data.train_on_difficult = True
        assert len(data.dataset("train")[0]["target"]["boxes"]) == 3

    def test_boxes_match_objects(self, data: VOCDetection) -> None:
        for sample in data.dataset("test"):
            for (x0, y0, x1, y1), label in zip(
                sample["target"]["boxes"].int().tolist(), sample["target"]["labels"], strict=True
            ):
                inside = sample["image"][:, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].float().mean()
                assert inside == pytest.approx(fakes.grey(int(label), 20), abs=4)


class TestTwoYears(DetectionDataContract):
    val_is_test = True

    def build(self, tmp_path: Path, **kwargs: Any) -> VOCDetection:
        fakes.voc2007_and_2012(tmp_path / "data")
        lists = {"train_list": "trainval", "val_list": "test", "eval_year": 2007}
        return VOCDetection(root=str(tmp_path / "data"), years=[2007, "2012"], **lists, **kwargs)

    def test_years_are_joined_for_training_only(self, data: VOCDetection) -> None:
        years = {split: {path.parts[-3] for path in data.dataset(split).paths} for split in ("train", "val", "test")}
        assert years == {"train": {"VOC2007", "VOC2012"}, "val": {"VOC2007"}, "test": {"VOC2007"}}
        ids = [sample["target"]["image_id"] for sample in data.dataset("train")]
        assert sorted(ids) == list(range(8))


def test_images_with_same_stem_raise(tmp_path: Path) -> None:
    folder = fakes.voc_detection(tmp_path) / "VOCdevkit/VOC2007/JPEGImages"
    Image.new("RGB", (9, 9)).save(folder / "2007_train00.png")
    with pytest.raises(DataError, match=r"2007_train00\.jpg and .*2007_train00\.png have the same name"):
        VOCDetection(root=str(tmp_path)).dataset("train")


def test_invalid_boxes_raise_or_are_dropped(tmp_path: Path) -> None:
    names = ["RBC", "WBC", "Platelets"]
    data = VOCDetection(root=str(fakes.bccd(tmp_path)), class_names=names)
    with pytest.raises(DataError, match=r"2007_train00\.xml: object 0 of 2007_train00\.jpg has no area"):
        data.setup("fit")
    data = VOCDetection(root=str(tmp_path), class_names=names, bad_boxes="drop")
    with pytest.warns(UserWarning, match="dropped 1 of [0-9]+ boxes of the train split: 1 has no area"):
        data.setup("fit")


def test_missing_download_is_named() -> None:
    with pytest.raises(DataError, match="VOCdevkit/VOC2007 does not exist.*--data VOCFolder.*--data.download true"):
        VOCDetection().setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"years": []}, "data.years is empty"),
        ({"class_names": ["a", "b"], "ignore_classes": ["b"]}, r"both have \['b'\]"),
        ({"masks": True}, "data.masks must be false, since VOCDetection has boxes alone"),
        ({"years": ["2006"], "download": True}, "data.download supports the years 2007, .* got 2006"),
    ],
)
def test_contradicting_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        VOCDetection(**arguments)


# --- one file ---------------------------------------------------------------------------------------------------------


def obj(name: str = "dog", box: tuple[Any, ...] = (3, 2, 7, 9), more: str = "") -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def write(tmp_path: Path, text: str) -> dict[str, Path]:
    (tmp_path / "a.xml").write_text(text)
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg")
    return {"path": tmp_path / "a.xml", "image": tmp_path / "a.jpg"}


def parse(tmp_path: Path, inside: str, **kwargs: Any) -> Any:
    return parse_voc(**write(tmp_path, f"<annotation>{HEAD}{inside}</annotation>"), class_names=NAMES, **kwargs)


def test_boxes_are_one_based_and_inclusive(tmp_path: Path) -> None:
    found = parse(tmp_path, obj(box=(1, 1, 20, 10)) + obj("cat", (3, "2.5", 7, 9)))
    assert found.boxes.tolist() == [[0, 0, 20, 10], [2, 1.5, 7, 9]]
    assert found.labels.tolist() == [2, 1]
    assert found.difficult.tolist() == [False, False]
    assert parse(tmp_path, obj(), one_based=False).boxes.tolist() == [[3, 2, 7, 9]]


def test_zero_area_box_is_kept_by_parser(tmp_path: Path) -> None:
    assert parse(tmp_path, obj(box=(5, 5, 5, 5))).boxes.tolist() == [[5, 5, 5, 5]]


def test_object_parts_are_ignored(tmp_path: Path) -> None:
    part = (
        "<part><name>head</name><bndbox><xmin>4</xmin><ymin>4</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
        "<difficult>1</difficult>"
    )
    found = parse(tmp_path, obj(more=part))
    assert found.boxes.tolist() == [[2, 1, 7, 9]]
    assert found.difficult.tolist() == [True]


def test_annotation_without_objects_is_valid(tmp_path: Path) -> None:
    found = parse(tmp_path, "")
    assert found.boxes.shape == (0, 4)
    assert found.boxes.dtype == np.float32


@pytest.mark.parametrize("head", ["", "<size><width>0</width><height>0</height></size>"])
@pytest.mark.parametrize("ending", ["jpg", "png", "tiff"])
def test_missing_size_is_read_from_rotated_photo(tmp_path: Path, head: str, ending: str) -> None:
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / f"a.{ending}", exif=exif)
    (tmp_path / "a.xml").write_text(f"<annotation>{head}{obj(box=(1, 1, 10, 20))}</annotation>")
    found = parse_voc(tmp_path / "a.xml", tmp_path / f"a.{ending}", NAMES)
    assert found.size == (20, 10)


def test_unknown_classes_raise_or_are_ignored(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.xml: object 1 is 'cow', .*\['cat', 'dog'\].*data.ignore_classes"):
        parse(tmp_path, obj() + obj("cow"))
    found = parse(tmp_path, obj() + obj("cow") + obj("cat"), ignore_classes=["cow"])
    assert found.labels.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", r"a\.xml cannot be read as XML \(no element found: line 1"),
        ("hello", r"a\.xml cannot be read as XML"),
        ("", r"a\.xml cannot be read as XML"),
        ("<html/>", r"a\.xml: the root must be <annotation>, as in VOC, got <html>"),
        ('<!DOCTYPE a [<!ENTITY b "bbbbb">]><annotation>&b;</annotation>', r"a\.xml declares .*do not trust it"),
        (f"<annotation>{HEAD}<object><name>dog</name></object></annotation>", r"a\.xml: object 0 has no <bndbox>"),
        (
            f"<annotation>{HEAD}{obj(box=(1, 2, 'x', 4))}</annotation>",
            "object 0: <xmax> must be a finite number, got 'x'",
        ),
        (f"<annotation>{HEAD}{obj().replace('ymin', 'top')}</annotation>", "object 0 has no <ymin>"),
        (
            f"<annotation>{HEAD}{obj(more='<difficult>yes</difficult>')}</annotation>",
            "object 0: <difficult> must be .*'yes'",
        ),
        (f"<annotation>{HEAD}{obj(name='')}</annotation>", "object 0 is '', which is not in"),
        ("<annotation><size><width>3</width></size></annotation>", "its <size> has no <height>"),
    ],
)
def test_invalid_annotation_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_voc(**write(tmp_path, text), class_names=NAMES)


@pytest.mark.parametrize(
    "missing", ["Annotations/2007_val01.xml", "JPEGImages/2007_val01.jpg", "ImageSets/Main/val.txt"]
)
def test_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    (fakes.voc_detection(tmp_path) / "VOCdevkit/VOC2007" / missing).unlink()
    with pytest.raises(DataError, match=f"{missing} does not exist"):
        VOCDetection(root=str(tmp_path)).setup("validate")


def test_image_size_other_than_annotated_raises(tmp_path: Path) -> None:
    path = fakes.voc_detection(tmp_path) / "VOCdevkit/VOC2007/JPEGImages/2007_val01.jpg"
    Image.new("RGB", (99, 98)).save(path)
    data = VOCDetection(root=str(tmp_path))
    with pytest.raises(DataError, match=r"2007_val01\.jpg has 99 x 98 pixels, but .*2007_val01\.xml states 48 x 64"):
        data.dataset("val")[1]


# --- downloads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the servers by local archives of trainval and test of 2007, both of VOCdevkit/VOC2007."""
    entries = {}
    for key, lists in {"2007": ("train", "val", "trainval"), "2007-test": ("test",)}.items():
        source = fakes.voc_detection(tmp_path / key, lists=lists)
        with tarfile.open(tmp_path / f"{key}.tar", "w") as tar:
            tar.add(source / "VOCdevkit", "VOCdevkit")
        digest = hashlib.md5((tmp_path / f"{key}.tar").read_bytes()).hexdigest()
        url = (tmp_path / f"{key}.tar").as_uri()
        entries[key] = {"url": url, "md5": digest, "base_dir": "VOCdevkit/VOC2007"}
    monkeypatch.setattr(module, "_ARCHIVES", {"2007": entries["2007"]})
    monkeypatch.setattr(module, "_TEST_2007", entries["2007-test"])

    def get(url: str, folder: Path, sha256: str | None = None, md5: str | None = None) -> Path:
        content = Path(url.removeprefix("file://")).read_bytes()
        assert hashlib.md5(content).hexdigest() == md5
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / url.rpartition("/")[2]
        path.write_bytes(content)
        return path

    monkeypatch.setattr("darkroom.datamodules.io.download.fetch", get)
    return tmp_path / "data"


def test_archives_of_2007_are_merged(archives: Path) -> None:
    data = VOCDetection(root=str(archives), download=True)
    for _ in range(2):  # the second call does nothing
        data.prepare_data()
        assert {split: len(data.dataset(split)) for split in ("train", "val", "test")} == dict.fromkeys(
            ("train", "val", "test"), 4
        )
    assert not (archives / "VOCdevkit/VOC2007-test").exists()


def test_test_archive_is_downloaded_only_if_needed(archives: Path) -> None:
    VOCDetection(root=str(archives), download=True, test_list="val").prepare_data()
    assert not (archives / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").exists()


def test_interrupted_merge_resumes(archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, replace, moved = VOCDetection(root=str(archives), download=True), Path.replace, []

    def killed(self: Path, target: Path) -> Path:
        if "VOC2007-test" in self.parts:
            moved.append(self)
            if len(moved) > 3:
                raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            data.prepare_data()
    assert not (archives / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").exists()
    data.prepare_data()
    assert len(data.dataset("test")) == 4
