"""YoloFolder: your own images with Ultralytics' text labels."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.base import DetectionDataModule, list_images_by_stem
from darkroom.datamodules.detection.formats.yolo import parse_yolo, read_names
from darkroom.datamodules.io.image_files import list_images
from darkroom.datamodules.io.pairing import check_fractions, choose_split
from darkroom.errors import DataError, UsageError

_NAMES = ("data.yaml", "dataset.yaml")


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
