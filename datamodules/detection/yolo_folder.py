"""YoloFolder: your own images with Ultralytics' text labels."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.base import DetectionDataModule, list_images_by_stem
from darkroom.datamodules.detection.formats.yolo import image_folders, labels_beside, parse_yolo, read_names
from darkroom.datamodules.io.image_files import list_images
from darkroom.datamodules.io.pairing import check_fractions, choose_split
from darkroom.errors import DataError, UsageError

_NAMES = ("data.yaml", "dataset.yaml")


class YoloFolder(DetectionDataModule):
    """Detection and instance segmentation with Ultralytics' text labels, a file per image of the same name.

    ``root`` holds ``data.yaml`` or ``dataset.yaml`` with the ``names`` of the classes and the folders of the images of
    ``train``, ``val`` and ``test``, as Ultralytics and Roboflow write it. Images of a split that it does not name are in
    ``images/{split}/NAME.jpg``. Labels are in the same path with ``labels`` for ``images``. An image without a label file
    has no objects; a label file without an image is an error.

    Args:
        root: folder that all others are relative to.
        images_dir, labels_dir: folders of images and labels, instead of those above; ``{split}`` is replaced by the name of
            the split. Folders without ``{split}`` are split at random.
        train, val, test: names of the splits; several may have one name, for data without test images.
        class_names: the classes in the order of their numbers in the labels; None: those of the YAML file.
        val_fraction, test_fraction: fractions of the random splits.
    """

    def __init__(
        self,
        root: str = "data",
        images_dir: str | None = None,
        labels_dir: str | None = None,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        class_names: Sequence[str] | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.random_splits = images_dir is not None and "{split}" not in images_dir
        if labels_dir is not None and self.random_splits != ("{split}" not in labels_dir):
            raise UsageError(
                f"data.images_dir and data.labels_dir must both have {{split}}, or neither, got {images_dir}, {labels_dir}"
            )
        self.root, self.images_dir, self.labels_dir = Path(root), images_dir, labels_dir
        self.split_names = {"train": train, "val": val, "test": test}
        self.fractions = {"val": val_fraction, "test": test_fraction}
        check_fractions(self.fractions)
        self._class_names = class_names

    @property
    def _yaml(self) -> Path | None:
        """The file with the names of the classes and the folders."""
        return next((path for name in _NAMES if (path := self.root / name).is_file()), None)

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Names of the classes: those of the argument, else those of ``data.yaml`` or ``dataset.yaml``.

        Raises:
            DataError: there are neither.
        """
        if self._class_names is not None:
            return tuple(self._class_names)
        if (path := self._yaml) is not None:
            return read_names(path)
        raise DataError(f"{self.root} has no {' or '.join(_NAMES)} with the names of the classes; set data.class_names")

    def _remedy(self) -> str:
        """Return the options for a layout without a folder per split."""
        for name in ("images", "."):
            folder = self.root / name
            if folder.is_dir() and list_images(folder):
                return f"; {folder} itself has images: --data.images_dir {name} splits at random"
        return ""

    def _folders(self, split: LabelledSplit) -> tuple[Path, Path]:
        """Return the folders of the images and the labels of a split.

        Raises:
            DataError: one of them does not exist.
        """
        name, path = self.split_names[split], self._yaml
        tried = [self.root / (self.images_dir or "images/{split}").replace("{split}", name)]
        if self.images_dir is None and path is not None:
            tried = image_folders(path, name) + tried
        images = next((folder for folder in tried if folder.is_dir()), tried[0])
        if len(tried) > 1 and images not in tried[:-1]:
            rank_zero_warn(f"{path}: the folder of {name}, such as {tried[0]}, does not exist; {images} is used")
        labels = labels_beside(images, self.root)
        if self.labels_dir is not None:
            labels = self.root / self.labels_dir.replace("{split}", name)
        for missing, what in ((images, "images"), (labels, "labels")):
            if not missing.is_dir():
                source = f", as {path} states" if what == "images" and len(tried) > 1 else ""
                raise DataError(
                    f"folder {missing} does not exist; it must hold the {what} of the {split} split{source}: check "
                    f"data.root, data.{what}_dir and data.{split}, which may be the name of another split{self._remedy()}"
                )
        return images, labels

    def _pairs(self, split: LabelledSplit) -> list[tuple[Path, Path]]:
        """Return the files of image and labels."""
        folder, labels = self._folders(split)
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
