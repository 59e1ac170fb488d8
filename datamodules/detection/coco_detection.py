"""CocoDetection: COCO's instances, or any data with boxes in COCO's JSON format."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faster_coco_eval.core.mask as coco_mask
import numpy as np

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.io.fields import read_flag, read_number, read_whole_number
from darkroom.errors import DataError, UsageError

_EMPTY: tuple[Any, ...] = ([], [[]])  # segmentations without any pixel


def run_lengths(segmentation: Any, size: tuple[int, int], place: str) -> bytes:
    """Return COCO's compressed run lengths of an object.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...] in pixels, or run lengths {"size": [H, W], "counts": ...},
            compressed (str) or not (a list).
        size: height and width of the image.
        place: file and object, for messages.

    Raises:
        DataError: the segmentation has another format or size.
    """
    try:
        if isinstance(segmentation, dict):
            if tuple(segmentation["size"]) != size:
                raise ValueError(f"its size {segmentation['size']} differs from that of the image, {list(size)}")
        elif not segmentation or any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
            raise ValueError("a polygon must have x and y of three points or more")
        elif far := [v for polygon in segmentation for v in polygon if not abs(v) <= 2 * max(size)]:
            # the library follows every edge, pixel by pixel
            raise ValueError(f"a polygon's {far[0]} is far outside of an image of {size[1]} x {size[0]}")
        runs = coco_mask.segmToRle(segmentation, size[1], size[0])
        if isinstance(segmentation, dict):
            coco_mask.decode([runs])  # checks the number of pixels
    except Exception as error:  # the library raises many types
        reason = str(error).partition("\n")[0]
        raise DataError(f"{place}: the segmentation cannot be read ({reason}); correct it") from error
    return runs["counts"]


@dataclass(frozen=True)
class RunLengthMasks:
    """Reader of the masks of one image, uint8 (N, H, W), from run lengths."""

    size: tuple[int, int]
    runs: tuple[bytes, ...]

    def __call__(self) -> np.ndarray:
        if not self.runs:
            return np.zeros((0, *self.size), np.uint8)
        masks = coco_mask.decode([{"size": list(self.size), "counts": counts} for counts in self.runs])
        return np.ascontiguousarray(masks.transpose(2, 0, 1))


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


def read_coco(path: Path) -> dict[str, list[dict[str, Any]]]:
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


def read_categories(content: dict[str, list[dict[str, Any]]], path: Path) -> dict[int, str]:
    """Return the names of the categories by their ids, in the order of ids, which may have gaps."""
    categories: dict[int, str] = {}
    for number, category in enumerate(content["categories"]):
        place = f"{path}: categories[{number}]"
        key = _whole(category, "id", place)
        if key in categories:
            raise DataError(f"{place}: the id {key} is already that of {categories[key]!r}; ids must be unique")
        categories[key] = _entry(category, "name", place, str)
    return dict(sorted(categories.items()))


def _objects(
    content: dict[str, list[dict[str, Any]]], labels: dict[int, int], path: Path
) -> dict[int, list[tuple[str, dict[str, Any]]]]:
    """Return the annotations of each image by its id, each with its place in the file."""
    objects: dict[int, list[tuple[str, dict[str, Any]]]] = {}
    for number, image in enumerate(content["images"]):
        place = f"{path}: images[{number}]"
        key = _whole(image, "id", place)
        if key in objects:
            raise DataError(f"{place}: the id {key} is already that of an earlier image; ids must be unique")
        objects[key] = []
    for number, annotation in enumerate(content["annotations"]):
        place = f"{path}: annotations[{number}]"
        ids = {name: _whole(annotation, name, place) for name in ("image_id", "category_id")}
        for name, known in (("image_id", objects), ("category_id", labels)):
            if ids[name] not in known:
                kind = name.removesuffix("_id")
                raise DataError(f"{place}: {name} {ids[name]} is not among the {kind} ids; correct it")
        objects[ids["image_id"]].append((place, annotation | ids))
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


def _areas(found: list[tuple[str, dict[str, Any]]]) -> np.ndarray | None:
    """Return the areas of objects, float32 (N,), if the file states all of them."""
    if not all(annotation.get("area") for _, annotation in found):
        return None  # many tools write 0, or nothing
    return np.array([read_number(annotation["area"], f"{place}: area") for place, annotation in found], np.float32)


def _runs(annotation: dict[str, Any], size: tuple[int, int], place: str) -> bytes:
    """Return the run lengths of a segmentation, which may be empty."""
    segmentation = _entry(annotation, "segmentation", place)
    if segmentation in _EMPTY:
        segmentation = {"size": size, "counts": [size[0] * size[1]]}
    return run_lengths(segmentation, size, place)


def parse_coco(
    path: Path, folder: Path, categories: dict[int, str] | None = None, masks: bool = False
) -> list[Annotation]:
    """Read a JSON in the format of COCO's instances. Label i is the i-th category in the order of ids.

    Args:
        path: file of the JSON.
        folder: folder of the images that it names.
        categories: names by id that it must have.
        masks: read the segmentations too; objects with an empty one become ``unmasked``.

    Raises:
        DataError: the JSON cannot be parsed, lacks an entry, or refers to an unknown image or category.
    """
    content = read_coco(path)
    own = read_categories(content, path)
    if categories not in (None, own):
        raise DataError(f"{path}: the categories {own} must be those of the validation split, {categories}")
    labels = {key: label for label, key in enumerate(own, 1)}
    objects = _objects(content, labels, path)
    annotations = []
    for number, image in enumerate(content["images"]):
        place = f"{path}: images[{number}]"
        size = _whole(image, "height", place), _whole(image, "width", place)
        if not all(0 < side < 2**16 for side in size):
            raise DataError(f"{place}: width and height must be from 1 to 65535, got {size[1]} x {size[0]}")
        file = folder / _entry(image, "file_name", place, str)
        if not file.is_file():
            raise DataError(f"{file} does not exist, but {place} names it; check data.root and the folder of the split")
        image_id = _whole(image, "id", place)
        found = objects[image_id]
        runs = tuple(_runs(o, size, where) for where, o in found if masks)
        annotations.append(
            Annotation(
                path=file,
                size=size,
                boxes=np.array([_box(o, where) for where, o in found], np.float32).reshape(-1, 4),
                labels=np.array([labels[o["category_id"]] for _, o in found], np.int64),
                image_id=image_id,
                source=path,
                iscrowd=np.array([read_flag(o.get("iscrowd"), f"{where}: iscrowd") for where, o in found], bool),
                area=_areas(found),
                unmasked=np.array([o["segmentation"] in _EMPTY for _, o in found], bool) if masks else None,
                masks=RunLengthMasks(size, runs) if masks else None,
            )
        )
    return annotations


class CocoDetection(DetectionDataModule):
    """Detection and instance segmentation in COCO's format (Lin et al. 2014): one JSON per split beside its images.

    The JSON of the validation split defines the classes; the others must have the same. Category ids may have gaps, labels
    have none; ``category_ids[label - 1]`` is the id of a label. Crowd regions are loaded, but never trained on. COCO
    publishes no boxes of its test images, so the test split is the validation split unless you give another one. Download:
    https://cocodataset.org. COCO has a box without area, so ``bad_boxes`` must be "drop".

    Args:
        root: folder that the others are relative to.
        train_images, val_images, test_images: folders of images; a test split needs ``test_json`` too.
        train_json, val_json, test_json: files of their instances.
        keep_empty: train on images without objects too; evaluation always includes them.
    """

    def __init__(
        self,
        root: str = "data/coco",
        train_images: str = "train2017",
        train_json: str = "annotations/instances_train2017.json",
        val_images: str = "val2017",
        val_json: str = "annotations/instances_val2017.json",
        test_images: str | None = None,
        test_json: str | None = None,
        keep_empty: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (test_images is None) != (test_json is None):
            raise UsageError("data.test_images and data.test_json must be given together; one is missing")
        self.root, self.keep_empty = Path(root), keep_empty
        val = (val_json, val_images)
        test = val if test_json is None or test_images is None else (test_json, test_images)
        self.files: dict[LabelledSplit, tuple[str, str]] = {
            "train": (train_json, train_images),
            "val": val,
            "test": test,
        }

    @cached_property
    def _categories(self) -> dict[int, str]:
        path = self.root / self.files["val"][0]
        return read_categories(read_coco(path), path)

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Names of the categories in the validation JSON, in the order of ids."""
        return tuple(self._categories.values())

    @property
    def category_ids(self) -> Sequence[int]:
        """Ids of the categories in the JSON, in the order of labels."""
        return tuple(self._categories)

    def annotations(self, split: LabelledSplit) -> list[Annotation]:
        """Parse the JSON of a split; training omits images without objects unless ``keep_empty`` is set."""
        json_path, folder = (self.root / part for part in self.files[split])
        annotations = parse_coco(json_path, folder, self._categories, self.masks)
        if split == "train" and not self.keep_empty:
            annotations = [one for one in annotations if self.select_trained(one).any()]
        return annotations
