"""Folders with COCO's JSON, as tools export them: options for the files that are there, and categories without objects."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from darkroom.datamodules.detection.formats.coco import Content, read_categories, read_coco
from darkroom.datamodules.io.fields import read_whole_number
from darkroom.errors import DataError

_SPLITS = ("train", "val", "test")


def find_unused_categories(content: Content, path: Path, files: Iterable[Path]) -> set[int]:
    """Return the ids of categories without any object whose name is taken: they only repeat another category.

    The name is taken by another category, or it is the supercategory of others. Roboflow writes the project's name so: as
    category 0, whose own supercategory is "none".

    Args:
        content: the JSON of the classes.
        path: file of it.
        files: all JSONs of the data set; they are read only if a name is taken.
    """
    names = read_categories(content, path)
    entries = {read_whole_number(one["id"], str(path)): one for one in content["categories"]}
    counts = Counter(names.values())
    groups = [one.get("supercategory") for one in entries.values()]
    roots = {
        key for key, name in names.items() if name in groups and entries[key].get("supercategory") in (None, "", "none")
    }
    doubtful = roots | {key for key, name in names.items() if counts[name] > 1}
    if not doubtful:
        return set()
    annotations = [(file, one) for file in files for one in read_coco(file)["annotations"] if isinstance(one, dict)]
    used = {read_whole_number(one.get("category_id"), f"{file}: 'category_id'") for file, one in annotations}
    unused = set()
    for key in sorted(doubtful - used):
        if key in roots or counts[names[key]] > 1:
            counts[names[key]] -= 1
            unused.add(key)
    return unused


def _folder_of_images(content: Content, folders: list[Path]) -> Path | None:
    """Return the folder that has the first image of a JSON; None: there is none."""
    names = [name for one in content["images"][:1] if isinstance(one, dict) and (name := one.get("file_name"))]
    return next((folder for folder in folders for name in names if (folder / str(name)).is_file()), None)


def _find(root: Path) -> dict[Path, tuple[str, str]]:
    """Return the JSONs in a folder, and in the folders in it, with their options: file and folder of images."""
    inner = sorted(path for path in root.glob("*") if path.is_dir())
    folders = [root, *inner, *sorted(path for one in inner for path in one.glob("*") if path.is_dir())]
    found = {}
    for path in sorted(path for folder in [root, *inner] for path in folder.glob("*.json")):
        try:
            folder = _folder_of_images(read_coco(path), [path.parent, *folders])
        except DataError:
            continue
        if folder is not None:
            found[path] = path.relative_to(root).as_posix(), folder.relative_to(root).as_posix()
    return found


def suggest_options(root: Path) -> str:
    """Return the options for the JSONs that are in a folder, for a message about one that is missing; "": none is there."""
    found = _find(root) if root.is_dir() else {}
    if not found:
        return ""
    # Part of the file's path, as in instances_train.json and Roboflow's valid/_annotations.coco.json.
    named = {split: one for split in _SPLITS for one in found.values() if split in one[0].lower()}
    if {"train", "val"} <= named.keys():
        options = " ".join(
            f"--data.{split}_json {one[0]} --data.{split}_images {one[1]}" for split, one in named.items()
        )
        return f"; for the files that are there: {options}"
    file, folder = next(iter(found.values()))
    options = f"--data.train_json {file} --data.train_images {folder} --data.val_json null"
    return f"; {root / file} is there: {options} splits it at random (data.val_fraction, data.test_fraction)"
