"""Pair images with their masks or labels, and split the pairs, for data sets of files."""

import hashlib
import math
import re
from collections import Counter
from pathlib import Path
from typing import TypeVar

from darkroom.datamodules.io.image_files import EXTENSIONS, list_images
from darkroom.datamodules.io.text import read_lines
from darkroom.errors import DataError, UsageError

_Other = TypeVar("_Other", Path, int)  # a mask, or the number of a class


def pair_by_name(images: Path, masks: Path, mask_suffix: str = "") -> list[tuple[Path, Path]]:
    """Pair ``images/NAME.*`` with ``masks/NAME<suffix>.*``; NAME may have folders.

    One folder may be inside the other. They may be the same if masks have a suffix.

    Raises:
        DataError: an image or a mask has no partner, or two have the same name.
    """
    by_name: dict[str, dict[str, Path]] = {"image": {}, "mask": {}}
    for role, folder, suffix in (("image", images, ""), ("mask", masks, mask_suffix)):
        for path in _list_own(folder, images if role == "mask" else masks):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if images == masks and name.endswith(mask_suffix) == (role == "image"):
                continue
            name = name.removesuffix(suffix)
            if name in by_name[role]:
                raise DataError(f"{path} and {by_name[role][name]} have the same name; remove one {role}")
            by_name[role][name] = path
    for role, other, folder in (("image", "mask", masks), ("mask", "image", images)):
        lonely = sorted(by_name[role].keys() - by_name[other].keys())
        if lonely:
            wanted = lonely[0] + (mask_suffix if other == "mask" else "")
            raise DataError(
                f"{len(lonely)} of {len(by_name[role])} images lack a partner: {by_name[role][lonely[0]]} has no {other} "
                f"{folder / wanted}.*; {_suffix_remedy(by_name)}add or remove files"
            )
    return [(by_name["image"][name], by_name["mask"][name]) for name in sorted(by_name["image"])]


def _suffix_remedy(by_name: dict[str, dict[str, Path]]) -> str:
    """Return the advice to set ``mask_suffix``, if all masks are named as an image with the same ending."""
    images, masks = by_name["image"], by_name["mask"]
    endings = {
        name[len(image) :] for name in masks for image in images if name.startswith(image) and name not in images
    }
    common = [ending for ending in endings if all(image + ending in masks for image in images)]
    return f"if masks end in {common[0]}, set data.mask_suffix to {common[0]}; otherwise " if len(common) == 1 else ""


def _list_own(folder: Path, other: Path) -> list[Path]:
    """List the images in a folder, and in folders inside it, without those of another folder inside it."""
    paths = list_images(folder, subfolders=True)
    inside = other != folder and other.is_relative_to(folder)
    return [path for path in paths if not (inside and path.is_relative_to(other))]


def read_split_list(path: Path) -> list[str]:
    """Read the name in every line of a split's list; empty lines are skipped.

    A name may have spaces, a folder and an extension, which is removed. The number after it in VOC's lists of a class (1,
    0 or -1) and the three of Oxford-IIIT Pet are not part of it.

    Raises:
        DataError: the file is missing, not text, or lists a name twice.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; it must list the images of a split, one name per line")
    lines = read_lines(path, "a list of the images of a split, one name per line,")
    names = [_name_in(line) for line in lines if line.strip()]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path} lists {twice[0]} more than once, as {len(twice) - 1} others; remove all but one line")
    return names


def _name_in(line: str) -> str:
    name = re.sub(r"(?:\s+(?:1|0|-1)|(?:\s+\d+){3})$", "", line.strip())
    return name[: -len(suffix)] if (suffix := Path(name).suffix).lower() in EXTENSIONS else name


def find_image(folder: Path, name: str) -> Path:
    """Return the image ``folder/NAME.*`` of any format; the path with .jpg if there is none."""
    usual = folder / f"{name}.jpg"
    if usual.is_file():
        return usual
    endings = [ending for known in EXTENSIONS for ending in (known, known.upper())]
    return next((path for ending in endings if (path := folder / f"{name}{ending}").is_file()), usual)


def pair_by_list(names: Path, images: Path, masks: Path, mask_suffix: str = ".png") -> list[tuple[Path, Path]]:
    """Pair ``images/NAME.*`` with ``masks/NAME<mask_suffix>`` for every NAME in ``names``.

    Raises:
        DataError: a listed file is missing.
    """
    pairs = []
    for name in read_split_list(names):
        pair = find_image(images, name), masks / f"{name}{mask_suffix}"
        for path in pair:
            if not path.is_file():
                raise DataError(f"{path} does not exist, but {names} lists {name}; add it")
        pairs.append(pair)
    return pairs


def check_fractions(fractions: dict[str, float]) -> None:
    """Raise a UsageError unless the fractions are at least 0 and leave images for training."""
    if sum(fractions.values()) >= 1 or min(fractions.values(), default=0) < 0:
        raise UsageError(f"data.*_fraction must be at least 0 and leave images for training, got {fractions}")


def check_val_fraction(fraction: float) -> None:
    """Raise a UsageError unless the fraction leaves images both for validation and for training."""
    if not 0 < fraction < 1:
        raise UsageError(f"data.val_fraction must be between 0 and 1, got {fraction}")


def choose_split(
    items: list[tuple[Path, _Other]], fractions: dict[str, float], seed: int, split: str, remedy: str
) -> list[tuple[Path, _Other]]:
    """Return the random fraction of a split; see ``split_by_hash``.

    Args:
        items: files of the images, each with its mask or class.
        fractions: size of each random split except train.
        seed: of the choice.
        split: name of the split to return.
        remedy: other way to define the splits, for messages.

    Raises:
        UsageError: there are images, but none for the split.
    """
    found = split_by_hash(items, fractions, seed)[split]
    if items and not found:
        blamed = fractions if split == "train" else {split: fractions[split]}
        settings = " and ".join(f"data.{name}_fraction {fraction}" for name, fraction in blamed.items())
        least = f"set it to {math.ceil(100 / len(items)) / 100} or more" if split != "train" else "lower it"
        if len(items) <= len(fractions):
            least = f"add images: {len(fractions) + 1} splits need at least {len(fractions) + 1}"
        raise UsageError(f"{settings} leaves none of {len(items)} images for {split}; {least}, or {remedy}")
    return found


def split_by_hash(
    pairs: list[tuple[Path, _Other]], fractions: dict[str, float], seed: int
) -> dict[str, list[tuple[Path, _Other]]]:
    """Split by a hash of (seed, name): the same on every machine; few images move when others are added."""
    order = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}/{pair[0].stem}".encode()).digest())
    splits: dict[str, list[tuple[Path, _Other]]] = {}
    start = 0
    for split, fraction in fractions.items():
        stop = start + round(fraction * len(order))
        splits[split], start = sorted(order[start:stop]), stop
    splits["train"] = sorted(order[start:])
    return splits
