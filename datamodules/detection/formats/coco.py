"""JSON in the format of COCO's instances, as COCO and other tools write it."""

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.formats.boxes import COCO
from darkroom.datamodules.detection.formats.run_lengths import read_masks
from darkroom.datamodules.io.fields import read_flag, read_number, read_whole_number
from darkroom.errors import DataError

Content = dict[str, list[dict[str, Any]]]
_Objects = list[tuple[int, str, dict[str, Any]]]  # number in the file, place for messages, entry


def _entry(entry: Any, key: str, place: str, kind: type = object) -> Any:
    try:
        value = entry[key]
    except (KeyError, TypeError):
        raise DataError(f"{place} has no {key!r}") from None
    if not isinstance(value, kind):
        raise DataError(f"{place}: {key!r} must be {kind.__name__}, got {value!r}")
    return value


def _whole(entry: Any, key: str, place: str) -> int:
    return read_whole_number(_entry(entry, key, place), f"{place}: {key!r}")


def _image_id(entry: Any, key: str, place: str) -> int | str:
    """Return the id of an image as it is compared: text of a whole number is the number."""
    value = _entry(entry, key, place)
    try:
        return read_whole_number(value, f"{place}: {key!r}")
    except DataError:
        if isinstance(value, str) and value.strip():
            return value
        raise


def read_coco(path: Path) -> Content:
    """Read a JSON with ``images``, ``annotations`` and ``categories``.

    Raises:
        DataError: the file is missing, cannot be parsed or lacks one of the three.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; check data.root and data.*_json") from None
    except (ValueError, RecursionError) as error:  # of JSON, or of its encoding
        raise DataError(f"{path} cannot be read as JSON ({error}); replace it") from error
    return {key: _entry(content, key, str(path), list) for key in ("images", "annotations", "categories")}


def read_categories(content: Content, path: Path) -> dict[int, str]:
    """Return the names of the categories by their ids, in the order of ids, which may have gaps."""
    categories: dict[int, str] = {}
    for number, category in enumerate(content["categories"]):
        place = f"{path}: categories[{number}]"
        key = _whole(category, "id", place)
        if key in categories:
            raise DataError(f"{place}: the id {key} is already that of {categories[key]!r}; ids must be unique")
        categories[key] = _entry(category, "name", place, str)
    return dict(sorted(categories.items()))


def _objects(content: Content, labels: dict[int, int], path: Path) -> dict[int | str, _Objects]:
    """Return the annotations of each image by its id."""
    objects: dict[int | str, _Objects] = {}
    for number, image in enumerate(content["images"]):
        place = f"{path}: images[{number}]"
        key = _image_id(image, "id", place)
        if key in objects:
            raise DataError(f"{place}: the id {key} is already that of an earlier image; ids must be unique")
        objects[key] = []
    for number, annotation in enumerate(content["annotations"]):
        place = f"{path}: annotations[{number}]"
        image_id, category = _image_id(annotation, "image_id", place), _whole(annotation, "category_id", place)
        for kind, wanted, known in (("image", image_id, objects), ("category", category, labels)):
            if wanted not in known:
                raise DataError(f"{place}: {kind}_id {wanted} is not among the {kind} ids; correct it")
        objects[image_id].append((number, place, annotation | {"category_id": category}))
    return objects


def _box(annotation: dict[str, Any], place: str) -> tuple[float, float, float, float]:
    """Return the box as x0, y0, x1, y1."""
    box = _entry(annotation, "bbox", place)
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"{place}: bbox must be [x, y, width, height], got {box!r}")
    x, y, width, height = (_coordinate(value, place) for value in box)
    return x, y, x + width, y + height


def _coordinate(value: Any, place: str) -> float:
    """Return a coordinate; JSON's NaN and Infinity pass, and ``bad_boxes`` decides about their boxes."""
    return value if isinstance(value, float) else read_number(value, f"{place}: bbox")


def _area(annotation: dict[str, Any], place: str) -> float:
    """Return the area of an object; nan if it is absent, empty or 0, as many tools write it."""
    value = annotation.get("area")
    area = 0.0 if value is None or value == "" else read_number(value, f"{place}: area")
    if not 0 <= area < 2**32:
        raise DataError(f"{place}: area must be a number of pixels from 0, got {value!r}")
    return area or math.nan


def _areas(found: _Objects) -> np.ndarray | None:
    """Return the areas of objects, float32 (N,), if the file states all of them."""
    areas = np.array([_area(annotation, place) for _, place, annotation in found], np.float32)
    return None if np.isnan(areas).any() else areas


def _file(image: dict[str, Any], folder: Path, place: str) -> Path:
    file = folder / _entry(image, "file_name", place, str)
    if not file.is_file():
        raise DataError(f"{file} does not exist, but {place} names it; check data.root and the folder of the split")
    return file


def _size(image: dict[str, Any], place: str) -> tuple[int, int]:
    size = _whole(image, "height", place), _whole(image, "width", place)
    if not all(0 < side < 2**16 for side in size):
        raise DataError(f"{place}: width and height must be from 1 to 65535, got {size[1]} x {size[0]}")
    return size


def parse_coco(
    path: Path,
    folder: Path,
    categories: dict[int, str] | None = None,
    masks: bool = False,
    left_out: Collection[int] = (),
) -> list[Annotation]:
    """Read a JSON in the format of COCO's instances. Label i is the i-th category in the order of ids.

    Args:
        path: file of the JSON.
        folder: folder of the images that it names.
        categories: names by id that it must have.
        masks: read the segmentations too; invalid ones become ``mask_faults``.
        left_out: ids of categories without a label.

    Raises:
        DataError: the JSON cannot be parsed, lacks an entry, refers to an unknown image or category, or has one image
            under two ids.
    """
    content = read_coco(path)
    own = {key: name for key, name in read_categories(content, path).items() if key not in left_out}
    if categories not in (None, own):
        raise DataError(f"{path}: the categories {own} must be those of the file of the classes, {categories}")
    labels = {key: label for label, key in enumerate(own, 1)}
    objects = _objects(content, labels, path)
    annotations: list[Annotation] = []
    ids: dict[Path, int | str] = {}
    for number, image in enumerate(content["images"]):
        place = f"{path}: images[{number}]"
        file, size = _file(image, folder, place), _size(image, place)
        found = objects[_image_id(image, "id", place)]
        image_id = image["id"] if isinstance(image["id"], str) else _whole(image, "id", place)
        if (other := ids.setdefault(file, image_id)) != image_id:
            raise DataError(
                f"{place}: {image['file_name']} has the id {image_id!r}, but also {other!r}, so its objects would be "
                "judged in two halves; give all of them one image_id, and remove the other entry of images"
            )
        segmentations = [o.get("segmentation") for _, _, o in found] if masks else []
        reader, faults = read_masks(segmentations, size)
        annotations.append(
            Annotation(
                path=file,
                size=size,
                boxes=np.array([_box(o, where) for _, where, o in found], np.float32).reshape(-1, 4),
                labels=np.array([labels[o["category_id"]] for _, _, o in found], np.int64),
                image_id=image_id,
                source=path,
                iscrowd=np.array([read_flag(o.get("iscrowd"), f"{where}: iscrowd") for _, where, o in found], bool),
                area=_areas(found),
                masks=reader if masks else None,
                rows=np.array([row for row, _, _ in found], np.int64),
                box_format=COCO,
                mask_faults=faults,
            )
        )
    return annotations
