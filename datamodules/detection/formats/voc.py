"""Annotations in PASCAL VOC's XML."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.formats.boxes import VOC
from darkroom.datamodules.io.fields import read_flag, read_number, read_whole_number
from darkroom.datamodules.io.image_size import image_size
from darkroom.errors import DataError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _root(path: Path) -> Element:
    try:
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # a few bytes of entities can grow to gigabytes
            raise DataError(
                f"{path} declares a document type or entities, which annotations do not need; do not trust it"
            )
        root = ElementTree.fromstring(text)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; every listed image must have its annotation") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter: unknown or broken encodings
        raise DataError(f"{path} cannot be read as XML ({error}); replace it") from error
    if root.tag != "annotation":
        raise DataError(f"{path}: the root must be <annotation>, as in VOC, got <{root.tag}>")
    return root


def _text(element: Element, tag: str, place: str) -> str:
    text = element.findtext(tag)
    if text is None:
        raise DataError(f"{place} has no <{tag}>; add it")
    return text


def _number(element: Element, tag: str, place: str) -> float:
    return read_number(_text(element, tag, place), f"{place}: <{tag}>")


def _name(item: Element) -> str:
    return (item.findtext("name") or "").strip()


def read_voc_names(path: Path) -> set[str]:
    """Read the names of the classes of an annotation.

    Raises:
        DataError: the file is missing or not XML, or an object has no name.
    """
    names = [_name(item) for item in _root(path).iterfind("object")]
    if "" in names:
        raise DataError(f"{path}: object {names.index('')} has no <name>; add it")
    return set(names)


def _size(root: Element, path: Path, image: Path) -> tuple[int, int]:
    """Return height and width from the XML, or from the image if the XML lacks them."""
    size = root.find("size")
    if size is None:
        return image_size(image)
    texts = {tag: _text(size, tag, f"{path}: its <size>") for tag in ("height", "width")}
    height, width = (read_whole_number(text, f"{path}: its <{tag}>") for tag, text in texts.items())
    if not all(0 <= side < 2**16 for side in (height, width)):
        raise DataError(f"{path}: its <width> and <height> must be from 1 to 65535, got {width} x {height}")
    return (height, width) if height and width else image_size(image)


def parse_voc(
    path: Path,
    image: Path,
    class_names: Sequence[str],
    ignore_classes: Sequence[str] = (),
    one_based: bool = True,
    image_id: int = 0,
) -> Annotation:
    """Read an annotation in VOC's format.

    VOC counts pixels from 1, and its boxes include their last pixel. So 1 is subtracted from the upper left corner, and
    pixel k reaches from k to k + 1. A box with equal corners has no area, and keeps its corners.

    Args:
        path: of the XML file.
        image: file of the image.
        class_names: the classes; label i is ``class_names[i - 1]``.
        ignore_classes: classes whose objects are left out.
        one_based: subtract one as above; False: corners are x0, y0, x1, y1 already.
        image_id: number of the image.

    Raises:
        DataError: the file is missing, not XML or incomplete, or has an unknown class.
    """
    root = _root(path)
    corners: list[list[float]] = []
    labels: list[int] = []
    difficult: list[bool] = []
    rows: list[int] = []
    for number, item in enumerate(root.iterfind("object")):
        place = f"{path}: object {number}"
        name = _name(item)
        if name in ignore_classes:
            continue
        if name not in class_names:
            raise DataError(
                f"{place} is {name!r}, which is not in data.class_names {list(class_names)}; add it there or to "
                "data.ignore_classes"
            )
        box = item.find("bndbox")
        if box is None:
            raise DataError(f"{place} has no <bndbox>; add it")
        corners.append([_number(box, tag, place) for tag in _CORNERS])
        labels.append(class_names.index(name) + 1)
        rows.append(number)
        difficult.append(read_flag(item.findtext("difficult"), f"{place}: <difficult>"))
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    if one_based:
        boxes[:, :2] -= boxes[:, :2] < boxes[:, 2:]
    return Annotation(
        path=image,
        size=_size(root, path, image),
        boxes=boxes,
        labels=np.array(labels, np.int64),
        image_id=image_id,
        source=path,
        difficult=np.array(difficult, bool),
        rows=np.array(rows, np.int64),
        box_format=VOC,
    )
