"""VOCFolder: your own images with XML files, as LabelImg, CVAT and Roboflow write them."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from darkroom.datamodules.bad_samples import UNREADABLE
from darkroom.datamodules.base import LABELLED_SPLITS, LabelledSplit
from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.base import DetectionDataModule, list_images_by_stem
from darkroom.datamodules.detection.formats.voc import parse_voc, read_voc_names
from darkroom.datamodules.io.image_size import image_size
from darkroom.datamodules.io.pairing import check_fractions, choose_split
from darkroom.errors import DataError, UsageError

# Folders of images and of XML files in data.root. The first pair that exists is used.
_LAYOUTS = (("images", "annotations"), ("JPEGImages", "Annotations"), ("images", "images"), (".", "."))


def list_annotations(folder: Path) -> dict[str, Path]:
    """List the XML files directly in a folder by their names without extension."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.stem: path for path in paths if path.suffix.lower() == ".xml" and not path.name.startswith(".")}


class VOCFolder(DetectionDataModule):
    """Your own folder of images and XML files in PASCAL VOC's format, a file per image of the same name.

    ``root`` holds ``images`` and ``annotations``, or ``JPEGImages`` and ``Annotations``, or images beside their XML files,
    as LabelImg writes them. The splits are random fractions. ``VOCDetection`` reads lists of the splits instead. An image
    without an XML file has no objects; an XML file without an image is an error.

    Args:
        root: folder that all others are relative to.
        images_dir, annotations_dir: folders of images and XML files, instead of those above; None for the latter: the
            folder of the images. ``{split}`` is replaced by the name of the split, and then no split is random.
        train, val, test: names of the splits; several may have one name, for data without test images.
        class_names: the classes; None: all names in the XML files of all splits, sorted.
        ignore_classes: classes whose objects are left out.
        val_fraction, test_fraction: fractions of the random splits.
        one_based: corners count pixels from 1, as in PASCAL VOC itself; False: from 0, as LabelImg, CVAT and most tools
            write them.
    """

    def __init__(
        self,
        root: str = "data",
        images_dir: str | None = None,
        annotations_dir: str | None = None,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        class_names: Sequence[str] | None = None,
        ignore_classes: Sequence[str] = (),
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        one_based: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if images_dir is None and annotations_dir is not None:
            raise UsageError("data.images_dir must be given together with data.annotations_dir")
        if both := set(class_names or ()) & set(ignore_classes):
            raise UsageError(f"data.class_names and data.ignore_classes both have {sorted(both)}; remove them from one")
        if self.masks:
            raise UsageError("data.masks must be false, since VOCFolder has boxes alone; InstanceFolder has masks")
        annotations_dir = images_dir if annotations_dir is None else annotations_dir
        self.random_splits = images_dir is None or "{split}" not in images_dir
        if annotations_dir is not None and self.random_splits != ("{split}" not in annotations_dir):
            raise UsageError(
                f"data.images_dir and data.annotations_dir must both have {{split}}, or neither, got {images_dir}, "
                f"{annotations_dir}"
            )
        self.root, self.images_dir, self.annotations_dir = Path(root), images_dir, annotations_dir
        self.split_names = {"train": train, "val": val, "test": test}
        self.fractions = {"val": val_fraction, "test": test_fraction} if self.random_splits else {}
        check_fractions(self.fractions)
        self._class_names, self.ignore_classes, self.one_based = class_names, tuple(ignore_classes), one_based

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Names of the classes: those of the argument, else those in the XML files of all splits, sorted."""
        if self._class_names is not None:
            return tuple(self._class_names)
        names: set[str] = set()
        for _, folder in sorted({self._folders(split) for split in LABELLED_SPLITS}):
            for path in list_annotations(folder).values():
                # Reading the split reports it.
                with suppress(*UNREADABLE if self.bad_samples is not None else ()):
                    names |= read_voc_names(path)
        return tuple(sorted(names - set(self.ignore_classes)))

    def _folders(self, split: LabelledSplit) -> tuple[Path, Path]:
        """Return the folders of the images and of the XML files of a split.

        Raises:
            DataError: none of them has XML files.
        """
        if self.images_dir is not None and self.annotations_dir is not None:
            name = self.split_names[split]
            options = [tuple(part.replace("{split}", name) for part in (self.images_dir, self.annotations_dir))]
        else:
            options = list(_LAYOUTS)
        pairs = [(self.root / images, self.root / annotations) for images, annotations in options]
        for images, annotations in pairs:
            if images.is_dir() and list_annotations(annotations):
                return images, annotations
        raise DataError(
            f"no XML files of the {split} split in {' or '.join(str(annotations) for _, annotations in pairs)}; check "
            f"data.root, data.images_dir and data.annotations_dir{self._remedy()}"
        )

    def _remedy(self) -> str:
        """Return the options for a layout with a folder per split, or with lists of the splits."""
        if (self.root / "VOCdevkit").is_dir():
            return f"; {self.root / 'VOCdevkit'} has lists of the splits: --data VOCDetection"
        names = {"train": "train", "val": "valid" if (self.root / "valid").is_dir() else "val", "test": "test"}
        if not list_annotations(self.root / "train") or not (self.root / names["val"]).is_dir():
            return ""
        if not (self.root / "test").is_dir():
            names["test"] = names["val"]
        options = [f"--data.{split} {name}" for split, name in names.items() if split != name]
        return f"; {self.root / 'train'} has XML files: {' '.join(['--data.images_dir {split}', *options])}"

    def _pairs(self, split: LabelledSplit) -> list[tuple[Path, Path]]:
        """Return the files of image and annotation."""
        folder, annotations = self._folders(split)
        images, files = list_images_by_stem(folder), list_annotations(annotations)
        if lonely := sorted(files.keys() - images.keys()):
            raise DataError(
                f"{files[lonely[0]]} has no image in {folder}, as have {len(lonely) - 1} others; add or remove files"
            )
        pairs = [(image, files.get(name, annotations / f"{name}.xml")) for name, image in images.items()]
        if self.random_splits:
            remedy = "give every split a folder and {split} in data.images_dir"
            pairs = choose_split(pairs, self.fractions, self.seed, split, remedy)
        if missing := [image for image, path in pairs if path.stem not in files]:
            rank_zero_warn(
                f"{len(missing)} of {len(pairs)} images of the {split} split have no XML file, such as {missing[0]}, so "
                "they are background; remove them if they are not annotated yet"
            )
        return pairs

    def _parse(self, path: Path, image: Path, number: int) -> Annotation:
        if path.is_file():
            return parse_voc(path, image, self.class_names, self.ignore_classes, self.one_based, number)
        boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        return Annotation(image, image_size(image), boxes, labels, number, path, difficult=np.zeros(0, bool))

    def annotations(self, split: LabelledSplit) -> list[Annotation]:
        """Parse the XML files of a split; see ``parse_voc``."""
        return self.parse_pairs(split, self._pairs(split), self._parse)
