"""Pair images with their masks or labels, and split the pairs, for data sets of files."""

import hashlib
from pathlib import Path
from typing import TypeVar

from darkroom.datamodules.io.read_images import list_images
from darkroom.errors import DataError, UsageError

_Other = TypeVar("_Other", Path, int)  # a mask, or the number of a class


def pair_by_name(images: Path, masks: Path, mask_suffix: str = "") -> list[tuple[Path, Path]]:
    """Pair ``images/NAME.*`` with ``masks/NAME<suffix>.*``; an image without its partner is an error."""
    by_name: dict[str, dict[str, Path]] = {"image": {}, "mask": {}}
    for role, folder, suffix in (("image", images, ""), ("mask", masks, mask_suffix)):
        for path in list_images(folder):
            name = path.stem.removesuffix(suffix)
            if name in by_name[role]:
                raise DataError(f"{path} and {by_name[role][name]} have the same name; which one is the {role}?")
            by_name[role][name] = path
    for role, other, folder in (("image", "mask", masks), ("mask", "image", images)):
        lonely = sorted(by_name[role].keys() - by_name[other].keys())
        if lonely:
            wanted = lonely[0] + (mask_suffix if other == "mask" else "")
            raise DataError(
                f"{len(lonely)} of {len(by_name[role])} images lack a partner: {by_name[role][lonely[0]]} has no {other} "
                f"{folder / wanted}.*"
            )
    return [(by_name["image"][name], by_name["mask"][name]) for name in sorted(by_name["image"])]


def read_split_list(path: Path) -> list[str]:
    """Read the first word of every line of a split's list; empty lines are left out.

    Raises:
        DataError: the file is missing or not text.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; it must list a split's images, one name a line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}); it must list a split's images, one name a line") from error
    return [line.split()[0] for line in lines if line.strip()]


def pair_by_list(names: Path, images: Path, masks: Path, mask_suffix: str = ".png") -> list[tuple[Path, Path]]:
    """Pair ``images/NAME.jpg`` with ``masks/NAME<mask_suffix>`` for every NAME that begins a line of ``names``."""
    pairs = []
    for name in read_split_list(names):
        pair = images / f"{name}.jpg", masks / f"{name}{mask_suffix}"
        for path in pair:
            if not path.is_file():
                raise DataError(f"{path} does not exist, but {names} lists {name}")
        pairs.append(pair)
    return pairs


def check_fractions(fractions: dict[str, float]) -> None:
    """Raise a UsageError unless the fractions of the splits leave a fraction to train on."""
    if sum(fractions.values()) >= 1 or min(fractions.values(), default=0) < 0:
        raise UsageError(f"data.*_fraction {fractions} must not be negative and must leave images to train on")


def check_val_fraction(fraction: float) -> None:
    """Raise a UsageError unless the fraction leaves images both to validate and to train on."""
    if not 0 < fraction < 1:
        raise UsageError(f"data.val_fraction is {fraction}; it must lie between 0 and 1")


def split_by_hash(
    pairs: list[tuple[Path, _Other]], fractions: dict[str, float], seed: int
) -> dict[str, list[tuple[Path, _Other]]]:
    """Split by a hash of (seed, name): the same on every machine, and nearly the same when images are added."""
    order = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}/{pair[0].stem}".encode()).digest())
    splits: dict[str, list[tuple[Path, _Other]]] = {}
    start = 0
    for split, fraction in fractions.items():
        stop = start + round(fraction * len(order))
        splits[split], start = sorted(order[start:stop]), stop
    splits["train"] = sorted(order[start:])
    return splits
