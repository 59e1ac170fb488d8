"""Readers of annotations: every encoding and every value of a field gives the right result or one error with the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.datamodules.detection.coco_detection import CocoDetection
from darkroom.datamodules.detection.formats.voc import parse_voc, read_voc_names
from darkroom.datamodules.detection.formats.yolo import image_folders, parse_yolo, read_names
from darkroom.datamodules.detection.voc_folder import VOCFolder
from darkroom.datamodules.detection.yolo_folder import YoloFolder
from darkroom.datamodules.io.pairing import read_split_list
from darkroom.errors import DataError, UsageError

NAME = "Käfer"
BOX = [5.0, 6.0, 25.0, 16.0]


def coco() -> dict[str, Any]:
    """Return a JSON of one image with one object."""
    image = {"id": 3, "file_name": "a.png", "width": 60, "height": 40}
    entry = {"id": 8, "image_id": 3, "category_id": 2, "bbox": [5, 6, 20, 10], "area": 150, "iscrowd": 0}
    entry["segmentation"] = [[5, 6, 25, 6, 25, 16, 5, 16]]
    return {"images": [image], "annotations": [entry], "categories": [{"id": 2, "name": NAME}]}


VOC = """<annotation><size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>Käfer</name><difficult>0</difficult><truncated>0</truncated>
<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>16</ymax></bndbox></object></annotation>"""
YOLO = "0 0.25 0.275 0.3333333333 0.25\n"
YAML = "train: images/train\nval: images/val\nnc: 1\nnames:\n- Käfer\n"


@pytest.fixture(autouse=True)
def image(tmp_path: Path) -> Path:
    """Write the image that annotations describe, where each layout has it."""
    for folder in (".", "images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "images/train/a.png")
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def build_coco(path: Path, **kwargs: Any) -> CocoDetection:
    files = {"train_json": path.name, "train_images": ".", "val_json": None, "val_fraction": 0, "test_fraction": 0}
    return CocoDetection(root=str(path.parent), **files, **kwargs)


# --- encodings --------------------------------------------------------------------------------------------------------


def read_coco_names(path: Path) -> Any:
    return list(build_coco(path).class_names)


def read_voc(path: Path) -> Any:
    found = parse_voc(path, path.parent / "a.png", [NAME], one_based=False)
    return [*read_voc_names(path), found.boxes.round(3).tolist()]


def read_yolo(path: Path) -> Any:
    return parse_yolo(path, path.parent / "a.png").boxes.round(3).tolist()


def read_yaml(path: Path) -> Any:
    return [*read_names(path), *(folder.name for folder in image_folders(path, "val"))]


FORMATS: dict[str, tuple[str, str, Callable[[Path], Any], Any]] = {
    "coco": ("a.json", json.dumps(coco(), ensure_ascii=False, indent=1), read_coco_names, [NAME]),
    "voc": ("a.xml", VOC, read_voc, [NAME, [BOX]]),
    "voc declared": ("a.xml", f'<?xml version="1.0" encoding="ENCODING"?>\n{VOC}', read_voc, [NAME, [BOX]]),
    "voc declared utf-8": ("a.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{VOC}', read_voc, [NAME, [BOX]]),
    "yolo": ("a.txt", YOLO, read_yolo, [BOX]),
    "yolo yaml": ("data.yaml", YAML, read_yaml, [NAME, "val"]),
    "voc list": ("train.txt", f"{NAME}\nb  1\n", read_split_list, [NAME, "b"]),
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252")
UNICODE = ("utf-8", "utf-8-sig", "utf-16")  # that every reader must read
FAITHFUL = {("voc declared", "latin-1"), ("voc declared", "cp1252"), ("yolo", "latin-1"), ("yolo", "cp1252")}
LIMITED = {("voc declared utf-8", "utf-16")}  # contradicts itself


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_encoding_is_read_right_or_refused_by_name(tmp_path: Path, kind: str, encoding: str, end: str) -> None:
    name, text, read, expected = FORMATS[kind]
    path = tmp_path / name
    text = text.replace("ENCODING", encoding.removesuffix("-sig").removesuffix("-le")).replace("\n", end)
    path.write_bytes(text.encode(encoding))
    must = (encoding in UNICODE and (kind, encoding) not in LIMITED) or (kind, encoding) in FAITHFUL
    try:
        assert read(path) == expected
    except DataError as error:
        assert not must, error  # noqa: PT017
        assert name in str(error)  # noqa: PT017


# --- fields -----------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
WRONG = [
    None,
    "",
    " ",
    "abc",
    "nan",
    "inf",
    "1_0",
    "0x1",
    NAN,
    INF,
    -INF,
    -1,
    1e300,
    10**400,
    2.5,
    True,
    [],
    {},
    [1],
    "-7",
]


def sample_of(data: Any) -> dict[str, Any]:
    """Return the target of the only sample of a datamodule, after all checks."""
    target = data.dataset("train")[0]["target"]
    for x0, y0, x1, y1 in target["boxes"].tolist():
        assert 0 <= x0 < x1 <= 60
        assert 0 <= y0 < y1 <= 40
    return target


def outcome(data: Callable[[], Any], file: str) -> dict[str, Any] | None:
    """Return the target of the sample, or None after an error that names the file."""
    try:
        built = data()
        names = list(built.class_names)
        if not all(map(str.strip, names)) or len(set(names)) < len(names):
            return None  # setup refuses it
        return sample_of(built)
    except (DataError, UsageError) as error:
        assert file in str(error), error  # noqa: PT017
        return None


COCO_FIELDS = [
    *(("images", 0, key) for key in ("id", "width", "height", "file_name")),
    *(("annotations", 0, key) for key in ("id", "image_id", "category_id", "area", "iscrowd", "bbox", "segmentation")),
    *(("annotations", 0, "bbox", index) for index in range(4)),
    ("annotations", 0, "segmentation", 0, 2),
    *(("categories", 0, key) for key in ("id", "name", "supercategory")),
]
NUMBERS = ("id", "width", "height", "image_id", "category_id", "area", "iscrowd", 0, 1, 3)


def changed(content: Any, keys: tuple[Any, ...], change: Any) -> Any:
    """Replace the value at a path of keys, or apply a function to it."""
    entry = content
    for key in keys[:-1]:
        entry = entry[key]
    entry[keys[-1]] = change(entry[keys[-1]]) if callable(change) else change
    return content


def as_lists(target: dict[str, Any]) -> dict[str, Any]:
    return {key: value.tolist() for key, value in target.items() if hasattr(value, "tolist")}


@pytest.mark.parametrize("keys", COCO_FIELDS, ids=str)
def test_every_value_of_a_coco_field_is_read_right_or_refused(tmp_path: Path, keys: tuple[Any, ...]) -> None:
    path = tmp_path / "a.json"

    def read(content: Any) -> dict[str, Any] | None:
        path.write_text(json.dumps(content))
        return outcome(lambda: build_coco(path, masks=True), path.name)

    expected = read(coco())
    assert expected is not None
    for value in WRONG:
        read(changed(coco(), keys, value))
    if keys[-1] in NUMBERS and len(keys) < 5:
        for alike in (str, float, lambda number: f" {number} ", lambda number: f"{number}.0"):
            found = read(changed(coco(), keys, alike))
            assert found is not None, alike
            assert as_lists(found) == as_lists(expected)


VOC_FIELDS = ["width>60", "height>40", "depth>3", "difficult>0", "truncated>0", "name>Käfer"]
VOC_FIELDS += ["xmin>5", "ymin>6", "xmax>25", "ymax>16"]


@pytest.mark.parametrize("field", VOC_FIELDS)
def test_every_value_of_a_voc_field_is_read_right_or_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "a.xml"
    tag, value = field.split(">")

    def read(text: str) -> dict[str, Any] | None:
        path.write_text(VOC.replace(f"<{tag}>{value}</{tag}>", text))
        return outcome(
            lambda: VOCFolder(root=str(tmp_path), images_dir=".", val_fraction=0, test_fraction=0), path.name
        )

    expected = read(f"<{tag}>{value}</{tag}>")
    assert expected is not None
    for wrong in (*map(str, WRONG), "٣"):
        read(f"<{tag}>{wrong}</{tag}>")
    read("")
    read(f"<{tag}/>")
    read(f"<{tag}><b/></{tag}>")
    if tag != "name":
        for alike in (f"\n {value}\t", f"{value}.0", f"{value}e0" if tag not in ("difficult", "truncated") else value):
            found = read(f"<{tag}>{alike}</{tag}>")
            assert found is not None, alike
            assert as_lists(found) == as_lists(expected)


@pytest.mark.parametrize("column", range(5))
def test_every_value_of_a_yolo_column_is_read_right_or_refused(tmp_path: Path, column: int) -> None:
    path = tmp_path / "labels/train/a.txt"

    def read(value: str) -> dict[str, Any] | None:
        columns = YOLO.split()
        columns[column] = value or columns[column]
        path.write_text(" ".join(columns))
        return outcome(lambda: YoloFolder(root=str(tmp_path), class_names=[NAME]), path.name)

    expected = read("")
    assert expected is not None
    for value in map(str, WRONG):
        if value.strip() and not (column == 0 and value == "0x1"):
            read(value)
    for alike in (f"{YOLO.split()[column]}e0", f"+{YOLO.split()[column]}"):
        found = read(alike)
        assert found is not None
        assert as_lists(found) == as_lists(expected)


@pytest.mark.parametrize("key", ["nc", "names", "path", "train", "kpt_shape", "names.0"])
@pytest.mark.parametrize(
    "value",
    ["", "null", "~", "''", "nan", ".inf", "-1", "2.5", "1", "'1'", "true", "[]", "{}", "[1, [2]]", "x"],
)
def test_every_value_of_a_yaml_key_is_read_right_or_refused(tmp_path: Path, key: str, value: str) -> None:
    content = {"path": ".", "train": "images/train", "nc": "1", "names": f"[{NAME}]"} | {key: value}
    if key == "names.0":
        content["names"] = f"[{content.pop(key)}]"
    (tmp_path / "data.yaml").write_text("".join(f"{key}: {one}\n" for key, one in content.items()))
    (tmp_path / "labels/train/a.txt").write_text(YOLO)
    target = outcome(lambda: YoloFolder(root=str(tmp_path)), "data.yaml")
    assert target is None or target["boxes"].numpy().round(3).tolist() == [BOX]
