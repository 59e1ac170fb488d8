"""ImageFolder: your own images, in one folder per class or in one folder."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torchvision.transforms import v2

from darkroom.datamodules.base import LABELLED_SPLITS, LabelledSplit, Split
from darkroom.datamodules.datasets import limit_items
from darkroom.datamodules.images.base import FileImages, LabelledImages
from darkroom.datamodules.io.image_files import EXTENSIONS, list_folders, list_images
from darkroom.datamodules.io.pairing import check_fractions, choose_split
from darkroom.errors import DataError, UsageError
from darkroom.protocols import SizedDataset


def class_folders(folder: Path) -> list[Path]:
    """Return the class folders in a folder, sorted by name; none if the folder itself has the images.

    Raises:
        DataError: the folder has both images and folders.
    """
    images = list_images(folder)
    folders = list_folders(folder)
    if images and folders:
        raise DataError(
            f"{folder} has images ({images[0].name}) and folders ({folders[0].name}); it must have either images, without "
            "classes, or one folder of images per class"
        )
    return folders


class ImageFolder(LabelledImages):
    """Your own images: ``root/<class>/*.png`` for images with a class, ``root/*.png`` for images without.

    Folders inside the folder of a class belong to the class.

    Splits are folders, ``root/{train,val,test}/<class>/*.png`` (or without ``<class>``), or random fractions of the only
    folder. Classes are numbered in the order of their names. Images may have any common format; photos are rotated by their
    EXIF data. Images that are not square are cropped to their middle square.

    Args:
        root: folder of the images, of the class folders, or of ``train``.
        size: side in pixels that all images are scaled to.
        crop: side in pixels of a crop of the scaled image, at a random place in training and from the middle elsewhere
            (Krizhevsky et al. 2012, section 4.1: 224 of 256); None: none. Photos of ``predict`` are scaled to it.
        channels: 3 for colour, 1 for grey; other images are converted.
        val_fraction, test_fraction: fractions of the training images for splits without a folder, chosen by ``seed``.
        flip, limit, mean, std: see ``LabelledImages``.
    """

    def __init__(
        self,
        root: str = "images",
        size: int = 64,
        crop: int | None = None,
        channels: Literal[1, 3] = 3,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        flip: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(size=size, flip=flip, **kwargs)
        self.root, self.channels, self.fractions = Path(root), channels, {"val": val_fraction, "test": test_fraction}
        check_fractions(self.fractions)
        if crop is not None and not 1 <= crop <= size:
            raise UsageError(f"data.crop must be from 1 to data.size, {size}, got {crop}")
        self.size: int = size
        self.crop = crop
        self.image_shape = channels, crop or size, crop or size

    @cached_property
    def folders(self) -> dict[str, Path]:
        """Folders by split, for those splits that have one; training always has."""
        if not self.root.is_dir():
            raise DataError(
                f"data.root: folder {self.root} does not exist; it must hold the images ({', '.join(EXTENSIONS)}), or one "
                "folder of images per class"
            )
        found = {split: self.root / split for split in ("train", "val", "test") if (self.root / split).is_dir()}
        if found and "train" not in found:
            raise DataError(
                f"{self.root} has a folder {min(found)}, but no folder train; add it with the training images"
            )
        return found or {"train": self.root}

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Names of the class folders of the training split, sorted; empty without classes."""
        return tuple(folder.name for folder in class_folders(self.folders["train"]))

    def fit_to_batch(self) -> list[v2.Transform]:
        """Return the random crop of training images, if ``crop`` is set."""
        return [] if self.crop is None else [v2.RandomCrop(self.crop)]

    def finish(self, split: Split) -> list[v2.Transform]:
        """Return the crop from the middle of images of other splits than training, if ``crop`` is set."""
        return [] if self.crop is None or split == "train" else [v2.CenterCrop(self.crop)]

    def list_files(self, folder: Path) -> list[tuple[Path, int]]:
        """Return the images of a split's folder and their classes, -1 without classes."""
        if not self.class_names:
            return [(path, -1) for path in list_images(folder)]
        files = []
        for inside in class_folders(folder):
            if inside.name not in self.class_names:
                raise DataError(
                    f"{inside}: the class has no folder in {self.folders['train']}; it must be one of "
                    f"{', '.join(self.class_names)}"
                )
            images = list_images(inside, subfolders=True)
            if not images:
                raise DataError(f"{inside} has no images ({', '.join(EXTENSIONS)}); add some, or remove the folder")
            files += [(path, self.class_names.index(inside.name)) for path in images]
        return files

    def select_split(self, split: LabelledSplit, files: list[tuple[Path, int]]) -> list[tuple[Path, int]]:
        """Choose the random fraction of a split among the training images; see ``choose_split``."""
        random = {name: fraction for name, fraction in self.fractions.items() if name not in self.folders}
        folders = ", ".join(str(self.root / name) for name in LABELLED_SPLITS)
        return choose_split(files, random, self.seed, split, f"give every split a folder ({folders})")

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``FileImages`` of a split; prediction uses the test split.

        Raises:
            DataError: the folder holds no images.
        """
        split = "test" if split == "predict" else split
        own = split != "train" and split in self.folders
        folder = self.folders[split if own else "train"]
        files = self.list_files(folder)
        if not files:
            wanted = "folders of images, as train does," if own and self.class_names else "images"
            raise DataError(
                f"{folder} has no {wanted} ({', '.join(EXTENSIONS)}); data.root is {self.root}; it must hold your images"
            )
        files = files if own else self.select_split(split, files)
        files = limit_items(files, self.limit, self.seed) if split == "train" else files
        labels = [label for _, label in files] if self.class_names else None
        paths = [path for path, _ in files]
        return FileImages(paths, labels, self.size, self.image_reader(paths, split))
