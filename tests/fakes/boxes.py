"""Write small detection datasets in their layouts on disk. The grey value of an object encodes its class."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from darkroom.datamodules.segmentation.voc_segmentation import VOC_CLASSES

SIZES = ((48, 64), (64, 48), (56, 72), (48, 48))  # height, width: wide, upright and square


def grey(label: int, classes: int) -> int:
    """Return the grey value of a class; the background is below 40."""
    return 60 + 190 * label // classes


@dataclass(frozen=True)
class Scene:
    """Separate filled rectangles: image uint8 (H, W, 3), boxes int (N, 4) xyxy, labels from 1."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray

    @property
    def instances(self) -> np.ndarray:
        """Instance ids from 1, uint8 (H, W)."""
        ids = np.zeros(self.image.shape[:2], np.uint8)
        for number, (x0, y0, x1, y1) in enumerate(self.boxes, 1):
            ids[y0:y1, x0:x1] = number
        return ids


def scene(rng: np.random.Generator, size: tuple[int, int], classes: int, objects: int | None = None) -> Scene:
    """Render up to four objects, one in each quarter of the image, the first at the upper left corner."""
    height, width = size
    image = rng.integers(0, 40, (height, width, 3)).astype(np.uint8)
    count = rng.integers(1, 5) if objects is None else objects
    boxes, labels = [], rng.integers(1, classes + 1, count)
    for quarter, label in enumerate(labels):
        sides = rng.integers(8, (width // 2 - 4, height // 2 - 4))
        corner = np.array([quarter % 2 * (width // 2), quarter // 2 * (height // 2)])
        corner = corner + (rng.integers(0, 3, 2) if quarter else 0)
        x0, y0, x1, y1 = box = np.concatenate([corner, corner + sides])
        image[y0:y1, x0:x1] = grey(label, classes)
        boxes.append(box)
    return Scene(image, np.array(boxes, int).reshape(-1, 4), labels)


def save(image: np.ndarray, path: Path) -> None:
    """Write an image, and its folder if it does not exist."""
    options: dict[str, Any] = {"quality": 95} if path.suffix == ".jpg" else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def voc_xml(rendered: Scene, names: tuple[str, ...], difficult: bool = False) -> str:
    """Return a VOC annotation: one-based inclusive pixels; the last object may be difficult."""
    root = ElementTree.Element("annotation")
    size = ElementTree.SubElement(root, "size")
    for tag, value in zip(("height", "width", "depth"), rendered.image.shape, strict=True):
        ElementTree.SubElement(size, tag).text = str(value)
    for number, (box, label) in enumerate(zip(rendered.boxes, rendered.labels, strict=True), 1):
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = names[label - 1]
        ElementTree.SubElement(item, "difficult").text = str(int(difficult and number == len(rendered.boxes)))
        corners = ElementTree.SubElement(item, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box + np.array([1, 1, 0, 0]), strict=True):
            ElementTree.SubElement(corners, tag).text = str(value)
    return ElementTree.tostring(root, encoding="unicode")


def voc_detection(
    root: Path,
    year: str = "2007",
    names: tuple[str, ...] = VOC_CLASSES[1:],
    lists: tuple[str, ...] = ("train", "val", "test"),
    count: int = 4,
) -> Path:
    """Write ``VOCdevkit/VOC<year>/{JPEGImages,Annotations,ImageSets/Main}``.

    The first image of each list has a difficult object, the last one has no object.
    """
    rng = np.random.default_rng(int(year))
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for listed in lists:
        stems = [f"{year}_{listed}{number:02d}" for number in range(count)]
        (folder / f"ImageSets/Main/{listed}.txt").write_text("\n".join(stems) + "\n")
        for number, stem in enumerate(stems):
            objects = 0 if number == count - 1 else 3 if number == 0 else None
            rendered = scene(rng, SIZES[number % len(SIZES)], len(names), objects)
            save(rendered.image, folder / "JPEGImages" / f"{stem}.jpg")
            (folder / "Annotations" / f"{stem}.xml").write_text(voc_xml(rendered, names, difficult=number == 0))
    return root


def voc_folder(root: Path, names: tuple[str, ...] = ("cat", "dog"), count: int = 10, seed: int = 20) -> Path:
    """Write images beside their XML files as LabelImg does: corners count from 0, but are at least 1."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        rendered = scene(rng, SIZES[number % len(SIZES)], len(names))
        save(rendered.image, root / f"{number:03d}.png")
        tree = ElementTree.fromstring(voc_xml(rendered, names))
        for corners, box in zip(tree.iter("bndbox"), rendered.boxes.tolist(), strict=True):
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
                corner = corners.find(tag)
                assert corner is not None
                corner.text = str(max(1, value))
        (root / f"{number:03d}.xml").write_bytes(ElementTree.tostring(tree, "utf-8"))
    return root


def bccd(root: Path) -> Path:
    """Write VOC's layout with three classes and a box without area."""
    voc_detection(root, names=("RBC", "WBC", "Platelets"))
    path = root / "VOCdevkit/VOC2007/Annotations/2007_train00.xml"
    tree = ElementTree.parse(path)
    corners = {corner.tag: corner for corner in next(tree.iter("bndbox"))}
    corners["xmax"].text, corners["ymax"].text = corners["xmin"].text, corners["ymin"].text
    tree.write(path)
    return root


def voc2007_and_2012(root: Path) -> Path:
    """Write two years of VOC: ``trainval`` of both, ``test`` of 2007."""
    voc_detection(root, "2007", lists=("trainval", "test"))
    return voc_detection(root, "2012", lists=("trainval",))


def _segmentation(rendered: Scene, number: int, kind: str) -> list | dict:
    height, width = rendered.image.shape[:2]
    x0, y0, x1, y1 = rendered.boxes[number].tolist()
    if kind == "polygon":
        return [[x0, y0, x1, y0, x1, y1, x0, y1]]
    mask = (rendered.instances == number + 1).T.ravel()  # column by column
    changes = np.flatnonzero(np.diff(mask, prepend=False))
    return {"size": [height, width], "counts": np.diff(changes, prepend=0, append=mask.size).tolist()}


def coco_detection(root: Path, splits: tuple[str, ...] = ("train2017", "val2017"), ending: str = ".jpg") -> Path:
    """Write ``{train,val}2017/*.jpg`` and ``annotations/instances_*.json``.

    Category ids have gaps and are unsorted. Objects are polygons; the first image of each split has a crowd in
    uncompressed run lengths, the last one has no object.
    """
    rng = np.random.default_rng(10)
    categories: list[dict[str, Any]] = [
        {"id": 7, "name": "dog"},
        {"id": 3, "name": "cat"},
        {"id": 90, "name": "toothbrush"},
    ]
    ids = sorted(category["id"] for category in categories)
    for split in splits:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(5):
            rendered = scene(rng, SIZES[number % len(SIZES)], 3, {0: 3, 4: 0}.get(number))
            height, width = rendered.image.shape[:2]
            image_id = 1000 * len(split) + 7 * number
            name = f"{image_id:012d}{ending}"
            save(rendered.image, root / split / name)
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            for row, ((x0, y0, x1, y1), label) in enumerate(zip(rendered.boxes.tolist(), rendered.labels, strict=True)):
                crowd = number == 0 and row == 1
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": ids[label - 1],
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": int(crowd),
                        "segmentation": _segmentation(rendered, row, "runs" if crowd else "polygon"),
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def yolo_folder(root: Path, count: int = 4, polygons: bool = False) -> Path:
    """Write ``images/{train,val,test}``, ``labels/{train,val,test}`` and ``data.yaml`` with two classes.

    One image of each split has no label file.
    """
    rng = np.random.default_rng(11)
    for split in ("train", "val", "test"):
        (root / "labels" / split).mkdir(parents=True)
        for number in range(count):
            rendered = scene(rng, SIZES[number % len(SIZES)], 2, 0 if number == 2 else None)
            save(rendered.image, root / "images" / split / f"{number:03d}.png")
            lines = []
            for box, label in zip(rendered.boxes, rendered.labels, strict=True):
                x0, y0, x1, y1 = box / np.tile(rendered.image.shape[1::-1], 2)
                shares: tuple[float, ...] = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
                if polygons:
                    shares = (x0, y0, x1, y0, x1, y1, x0, y1)
                lines.append(" ".join([str(label - 1), *(f"{share:.6f}" for share in shares)]))
            if lines:
                (root / "labels" / split / f"{number:03d}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnc: 2\nnames:\n  0: red\n  1: green\n")
    return root


def _instances(root: Path, images: str, masks: str, mask_suffix: str, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(count):
        rendered = scene(rng, SIZES[number % len(SIZES)], 1)
        save(rendered.image, root / images / f"picture{number:02d}.png")
        save(rendered.instances, root / masks / f"picture{number:02d}{mask_suffix}.png")


def penn_fudan(root: Path, count: int = 10) -> Path:
    """Write ``PennFudanPed/{PNGImages/NAME.png,PedMasks/NAME_mask.png}``."""
    _instances(root / "PennFudanPed", "PNGImages", "PedMasks", "_mask", count, 12)
    return root


def instance_folder(root: Path, count: int = 10) -> Path:
    """Write ``images/NAME.png`` and ``masks/NAME.png`` of instance ids."""
    _instances(root, "images", "masks", "", count, 13)
    return root


def dsb2018_instances(root: Path, count: int = 10) -> Path:
    """Write ``{train,test}/{images,labels}`` of instance ids."""
    for seed, split in enumerate(("train", "test"), 14):
        _instances(root, f"{split}/images", f"{split}/labels", "", count, seed)
    return root


DETECTION_FAKES = {
    "bccd": bccd,
    "voc2007": voc_detection,
    "voc0712": voc2007_and_2012,
    "coco": coco_detection,
    "penn_fudan": penn_fudan,
    "yolo_folder": yolo_folder,
    "voc_folder": voc_folder,
    "dsb2018_instances": dsb2018_instances,
}
