"""Write small datasets of images with captions in their layouts on disk."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fakes.labelled import flat_folder

COLOURS = {"red": (220, 40, 30), "green": (40, 180, 60), "blue": (40, 60, 220)}


def caption_of(index: int) -> str:
    """Return the caption of an index; all are different."""
    return f"a {list(COLOURS)[index % 3]} card with the number {index}"


def card(index: int, side: int = 24) -> Image.Image:
    """Render an image in the colour of its caption, with its index as the brightness of a corner."""
    pixels = np.full((side, side + 8, 3), COLOURS[list(COLOURS)[index % 3]], np.uint8)
    pixels[: side // 2, : side // 2] = index * 5 % 256
    return Image.fromarray(pixels)


def caption_folder(root: Path, count: int = 20) -> Path:
    """Write ``captions.tsv`` (file, caption, also, style) and ``pictures/*.png`` of several sizes and modes."""
    flat_folder(root / "pictures", count, seed=31)
    with (root / "captions.tsv").open("w", newline="") as file:
        table = csv.writer(file, dialect="excel-tab")
        table.writerow(["file", "caption", "also", "style"])
        for index in range(count):
            row = [f"pictures/picture{index}.png", caption_of(index), f"number {index}" if index % 2 else ""]
            table.writerow([*row, ("plain", "fine")[index % 2]])
    return root


def coco_captions(root: Path, train: int = 12, val: int = 4) -> Path:
    """Write ``{train,val}2017/`` and ``annotations/captions_{train,val}2017.json``: five captions per image, shuffled."""
    (root / "annotations").mkdir(parents=True)
    for first, (split, count) in ((1, ("train", train)), (1 + train, ("val", val))):
        folder = root / f"{split}2017"
        folder.mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(first, first + count):
            card(index).save(folder / f"{index:012d}.jpg")
            images.append({"id": index, "file_name": f"{index:012d}.jpg", "height": 24, "width": 32, "license": 1})
            for number in range(5):
                text = f"{caption_of(index)}, said {number}\n"
                annotations.append({"image_id": index, "id": 10 * index + number, "caption": text})
        annotations.sort(key=lambda annotation: annotation["id"] % 10)
        content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
        (root / f"annotations/captions_{split}2017.json").write_text(json.dumps(content))
    return root


def write_shard(path: Path, indices: range, **extra: bytes) -> None:
    """Write a tar of ``<key>.png`` and ``<key>.txt``, or every third ``<key>.json`` with two captions; and extra files."""
    with tarfile.open(path, "w") as archive:
        for index in indices:
            image = io.BytesIO()
            card(index).save(image, "PNG")
            files = {"png": image.getvalue(), "txt": caption_of(index).encode()}
            if index % 3 == 0:
                del files["txt"]
                files["json"] = json.dumps({"caption": [caption_of(index), f"number {index}"], "width": 32}).encode()
            for extension, content in (files | extra).items():
                member = tarfile.TarInfo(f"./{index:06d}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def web_shards(root: Path, train: tuple[int, ...] = (7, 9, 8, 10), val: tuple[int, ...] = (3, 2)) -> Path:
    """Write ``train-000000.tar`` ... and ``val-000000.tar`` ... with these numbers of samples, without an index."""
    root.mkdir(parents=True, exist_ok=True)
    start = 0
    for split, sizes in {"train": train, "val": val}.items():
        for number, size in enumerate(sizes):
            write_shard(root / f"{split}-{number:06d}.tar", range(start, start + size))
            start += size
    return root


CAPTION_FAKES: dict[str, Callable[[Path], Path]] = {
    "captions": caption_folder,
    "coco_captions": coco_captions,
    "web_shards": web_shards,
}
