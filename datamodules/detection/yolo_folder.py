"""YoloFolder: your own images with Ultralytics' text labels."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.base import DetectionDataModule, list_images_by_stem
from darkroom.datamodules.detection.coco_detection import RunLengthMasks, run_lengths
from darkroom.datamodules.io.fields import read_whole_number
from darkroom.datamodules.io.image_files import list_images
from darkroom.datamodules.io.image_size import image_size
from darkroom.datamodules.io.pairing import check_fractions, choose_split
from darkroom.errors import DataError, UsageError

_NAMES = ("data.yaml", "dataset.yaml")


def _row(line: str, place: str) -> tuple[int, np.ndarray]:
    """Parse a line: class and points (P, 2) in fractions of the image, centre and sides of a box or a polygon's corners."""
    try:
        name, *numbers = map(float, line.split())
    except ValueError:
        raise DataError(f"{place} must have numbers alone (class cx cy w h), got {line.strip()!r}") from None
    if not name.is_integer() or abs(name) >= 2**31:
        raise DataError(f"{place}: the class must be a whole number from 0, got {name}")
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise DataError(
            f"{place} has {len(numbers)} numbers after the class; a box has 4 (cx cy w h), a polygon 6 or more (x y ...)"
        )
    if max(numbers) > 2:
        raise DataError(
            f"{place} has {max(numbers)}, which looks like pixels; labels must be fractions of the image's width and "
            "height, from 0 to 1"
        )
    return int(name), np.array(numbers).reshape(-1, 2)


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
    boxes: list[np.ndarray] = []
    labels: list[int] = []
    runs: list[bytes] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}); labels must be lines of class cx cy w h") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        name, points = _row(line, place)
        points = points * (width, height)
        if len(points) == 2:
            if masks:
                raise DataError(f"{place} is a box, but data.masks is true; it must be a polygon")
            boxes.append(np.concatenate([points[0] - points[1] / 2, points[0] + points[1] / 2]))
        else:
            boxes.append(np.concatenate([points.min(0), points.max(0)]))
            runs += [run_lengths([points.ravel().tolist()], (height, width), place)] if masks else []
        labels.append(name + 1)
    return Annotation(
        path=image,
        size=(height, width),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        image_id=image_id,
        source=path,
        masks=RunLengthMasks((height, width), tuple(runs)) if masks else None,
    )


def read_names(path: Path) -> tuple[str, ...]:
    """Read the classes under ``names`` of an Ultralytics data set file: a list, or a dict with the numbers from 0.

    Names are text, also "yes" and "no", which YAML reads as truth values.

    Raises:
        DataError: the file cannot be read, or ``nc`` or ``kpt_shape`` do not fit boxes of these classes.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)  # every value as text
        names = content["names"]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as YAML ({error}); replace it") from error
    except (KeyError, TypeError):
        raise DataError(f"{path} has no names; add them, or set data.class_names") from None
    if isinstance(names, dict):
        if set(names) != set(map(str, range(len(names)))):
            raise DataError(f"{path}: names must be numbered from 0 without gaps, got {list(names)}")
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names must be a list of classes, got {names!r}")
    if "nc" in content and read_whole_number(content["nc"], f"{path}: nc") != len(names):
        raise DataError(
            f"{path}: nc is {content['nc']}, but there are {len(names)} names, {names}; correct one of them"
        )
    if "kpt_shape" in content:
        raise DataError(f"{path} has kpt_shape, so its labels have keypoints, which are not supported; export boxes")
    return tuple(map(str, names))


class YoloFolder(DetectionDataModule):
    """Detection and instance segmentation with Ultralytics' text labels, a file per image of the same name.

    By default ``root`` holds ``images/{train,val,test}/NAME.jpg``, ``labels/{train,val,test}/NAME.txt`` and ``data.yaml``
    or ``dataset.yaml`` with the ``names`` of the classes; the rest of it is not read. For folders such as
    ``valid/images`` set ``images_dir`` "{split}/images", ``labels_dir`` "{split}/labels" and ``val`` valid. An image
    without a label file has no objects; a label file without an image is an error.

    Args:
        root: folder that all others are relative to.
        images_dir, labels_dir: folders of images and labels; ``{split}`` is replaced by the name of the split. Folders
            without ``{split}`` are split at random.
        train, val, test: names of the splits; several may have one name, for data without test images.
        class_names: the classes in the order of their numbers in the labels; None: those of the YAML file.
        val_fraction, test_fraction: fractions of the random splits.
    """

    def __init__(
        self,
        root: str = "data",
        images_dir: str = "images/{split}",
        labels_dir: str = "labels/{split}",
        train: str = "train",
        val: str = "val",
        test: str = "test",
        class_names: Sequence[str] | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.random_splits = "{split}" not in images_dir
        if self.random_splits != ("{split}" not in labels_dir):
            raise UsageError(
                f"data.images_dir and data.labels_dir must both have {{split}}, or neither, got {images_dir}, {labels_dir}"
            )
        self.root, self.images_dir, self.labels_dir = Path(root), images_dir, labels_dir
        self.split_names = {"train": train, "val": val, "test": test}
        self.fractions = {"val": val_fraction, "test": test_fraction}
        check_fractions(self.fractions)
        self._class_names = class_names

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Names of the classes: those of the argument, else those of ``data.yaml`` or ``dataset.yaml``.

        Raises:
            DataError: there are neither.
        """
        if self._class_names is not None:
            return tuple(self._class_names)
        for path in (self.root / name for name in _NAMES):
            if path.is_file():
                return read_names(path)
        raise DataError(f"{self.root} has no {' or '.join(_NAMES)} with the names of the classes; set data.class_names")

    def _flat(self) -> str:
        """Return a remedy for images that are not in one folder per split."""
        folder = self.root / "images"
        if not folder.is_dir() or not list_images(folder):
            return ""
        return f"; {folder} itself has images: --data.images_dir images --data.labels_dir labels splits at random"

    def _pairs(self, split: LabelledSplit) -> list[tuple[Path, Path]]:
        """Return the files of image and labels."""
        name = self.split_names[split]
        folder, labels = (self.root / part.replace("{split}", name) for part in (self.images_dir, self.labels_dir))
        for missing, what in ((folder, "images"), (labels, "labels")):
            if not missing.is_dir():
                raise DataError(
                    f"folder {missing} does not exist; it must hold the {what} of the {split} split: check data.root, "
                    f"data.{what}_dir and data.{split}, which may be the name of another split{self._flat()}"
                )
        images = list_images_by_stem(folder)
        files = [path for path in labels.iterdir() if path.suffix.lower() == ".txt" and not path.name.startswith(".")]
        labelled = {path.stem: path for path in files if path.stem != "classes"}  # LabelImg's list of the classes
        if lonely := sorted(labelled.keys() - images.keys()):
            raise DataError(
                f"{labelled[lonely[0]]} has no image in {folder}, as have {len(lonely) - 1} others; remove them"
            )
        if images and not labelled:
            raise DataError(f"folder {labels} has no labels; give an image without objects an empty file")
        pairs = [(image, labelled.get(name, labels / f"{name}.txt")) for name, image in images.items()]
        if not self.random_splits:
            return pairs
        remedy = "give every split a folder and {split} in data.images_dir and data.labels_dir"
        return choose_split(pairs, self.fractions, self.seed, split, remedy)

    def annotations(self, split: LabelledSplit) -> list[Annotation]:
        """Parse the label files of a split; see ``parse_yolo``."""
        pairs = self._pairs(split)
        return self.parse_pairs(split, pairs, lambda path, image, number: parse_yolo(path, image, self.masks, number))
