"""Ultralytics' text labels and its ``data.yaml``."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from darkroom.datamodules.detection.annotations import Annotation, MaskFault
from darkroom.datamodules.detection.formats.boxes import YOLO
from darkroom.datamodules.detection.formats.run_lengths import read_masks
from darkroom.datamodules.io.fields import read_whole_number
from darkroom.datamodules.io.image_size import image_size
from darkroom.datamodules.io.text import read_lines, read_text
from darkroom.errors import DataError

_NO_POLYGON = MaskFault("is a box without a polygon", "data.masks is true, so every line must be a polygon")


def _row(line: str, place: str) -> tuple[int, np.ndarray]:
    """Parse a line: class and points (P, 2) in fractions of the image, centre and sides of a box or a polygon's corners."""
    try:
        name, *numbers = map(float, line.replace("_", "?").split())  # Python would read 1_0 as 10
    except ValueError:
        raise DataError(f"{place} must have numbers alone (class cx cy w h), got {line.strip()!r}") from None
    if not name.is_integer() or abs(name) >= 2**31:
        raise DataError(f"{place}: the class must be a whole number from 0, got {name}")
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise DataError(
            f"{place} has {len(numbers)} numbers after the class; a box has 4 (cx cy w h), a polygon 6 or more (x y ...)"
        )
    if (largest := max(filter(math.isfinite, numbers), default=0)) > 2:
        raise DataError(
            f"{place} has {largest}, which looks like pixels; labels must be fractions of the image's width and "
            "height, from 0 to 1"
        )
    return int(name), np.array(numbers).reshape(-1, 2)


def _box(points: np.ndarray) -> np.ndarray:
    """Return the box, xyxy, of a centre and sides, or around a polygon."""
    if len(points) == 2:
        return np.concatenate([points[0] - points[1] / 2, points[0] + points[1] / 2])
    return np.concatenate([points.min(0), points.max(0)])


def parse_yolo(path: Path, image: Path, masks: bool = False, image_id: int = 0) -> Annotation:
    """Read Ultralytics' labels, a line per object. Class c becomes label c + 1.

    A line is ``class cx cy w h`` in fractions of the image's width and height, or ``class x y x y x y ...``, a polygon. The
    box of a polygon is its bounding box.

    Args:
        path: text file; an image without one has no objects.
        image: file of the image.
        masks: read the polygons as masks too; then every object must be a polygon.
        image_id: number of the image.

    Raises:
        DataError: a line has another format; the message has file and line.
    """
    height, width = image_size(image)
    lines = read_lines(path, "lines of class cx cy w h") if path.is_file() else []
    rows = [number for number, line in enumerate(lines, 1) if line.strip()]
    read = [_row(lines[number - 1], f"{path}, line {number}") for number in rows]
    polygons = [points * (width, height) for _, points in read]
    segmentations = [[points.ravel().tolist()] if len(points) > 2 else None for points in polygons] if masks else []
    reader, faults = read_masks(segmentations, (height, width))
    faults |= {index: _NO_POLYGON for index, one in enumerate(segmentations) if one is None}
    return Annotation(
        path=image,
        size=(height, width),
        boxes=np.array([_box(points) for points in polygons], np.float32).reshape(-1, 4),
        labels=np.array([name + 1 for name, _ in read], np.int64),
        image_id=image_id,
        source=path,
        masks=reader if masks else None,
        rows=np.array(rows, np.int64),
        box_format=YOLO,
        mask_faults=faults,
    )


def read_data_yaml(path: Path) -> dict[str, Any]:
    """Read an Ultralytics data set file; every value stays text, also "yes" and "no", which YAML reads as truth values.

    Raises:
        DataError: the file cannot be read, or describes keypoints.
    """
    try:
        content = yaml.load(read_text(path, "YAML"), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise DataError(f"{path} cannot be read as YAML ({error}); replace it") from error
    content = {} if content in (None, "") else content
    if not isinstance(content, dict):
        raise DataError(f"{path} must have keys such as names and train, got {content!r}")
    if "kpt_shape" in content:
        raise DataError(f"{path} has kpt_shape, so its labels have keypoints, which are not supported; export boxes")
    return content


def read_names(path: Path) -> tuple[str, ...]:
    """Read the classes under ``names`` of an Ultralytics data set file: a list, or a dict with the numbers from 0.

    Raises:
        DataError: the file cannot be read, or ``nc`` does not fit the names.
    """
    content = read_data_yaml(path)
    if "names" not in content:
        raise DataError(f"{path} has no names; add them, or set data.class_names")
    names = content["names"]
    if isinstance(names, dict):
        if set(names) != set(map(str, range(len(names)))):
            raise DataError(f"{path}: names must be numbered from 0 without gaps, got {list(names)}")
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: names must be a list of classes, got {names!r}")
    if "nc" in content and read_whole_number(content["nc"], f"{path}: nc") != len(names):
        raise DataError(
            f"{path}: nc is {content['nc']}, but there are {len(names)} names, {names}; correct one of them"
        )
    return tuple(names)


def image_folders(path: Path, split: str) -> list[Path]:
    """Return where an Ultralytics data set file may mean the images of a split to be; empty if it does not name them.

    Paths are relative to ``path`` in the file, or to the file. Exports such as Roboflow's write ``../train/images`` for
    the folder ``train/images`` beside the file, and some have the ``path`` of another machine.

    Raises:
        DataError: the file names a list of images, or several folders.
    """
    content = read_data_yaml(path)
    value, base = content.get(split, ""), content.get("path", "")
    if not isinstance(value, str) or not isinstance(base, str) or value.endswith(".txt"):
        raise DataError(
            f"{path}: {split} must be one folder of images, got {value!r}; set data.images_dir to one folder, such as "
            "images/train, whose images are split at random, or to one per split, such as images/{split}"
        )
    if not value:
        return []
    folders = [
        folder / part for folder in (path.parent / base, path.parent) for part in (value, value.removeprefix("../"))
    ]
    return list(dict.fromkeys(folders))


def labels_beside(images: Path, root: Path) -> Path:
    """Return the folder of the labels of a folder of images: the last "images" in its path becomes "labels".

    Args:
        images: folder of the images.
        root: of the data; an "images" in its own path is only a name.
    """
    parts = list(images.parts)
    own = len(root.parts) if images.is_relative_to(root) else 0
    if "images" not in parts[own:]:
        return images  # labels beside the images
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)
