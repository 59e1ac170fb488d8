"""CelebA: 202,599 faces of 178 x 218 pixels, with 40 attributes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision import datasets

from darkroom.datamodules.base import LabelledSplit, Split
from darkroom.datamodules.datasets import limit_items
from darkroom.datamodules.images.base import FileImages, LabelledImages
from darkroom.errors import DataError, UsageError
from darkroom.protocols import SizedDataset

ADDRESS = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
PARTITION = {"train": "0", "val": "1", "test": "2"}
SPLITS, ATTRIBUTES = "list_eval_partition.txt", "list_attr_celeba.txt"


class CelebA(LabelledImages):
    """CelebA (Liu et al. 2015), aligned: 162,770 faces to train, 19,867 to validate and 19,962 to test on.

    ``root`` holds ``celeba/img_align_celeba/*.jpg``, ``celeba/list_eval_partition.txt`` and, for labels,
    ``celeba/list_attr_celeba.txt``, as torchvision lays them out.

    Args:
        root: folder that holds ``celeba``.
        attribute: one of the 40, such as Smiling; faces with it have class 1, the others class 0. None: no labels.
        size: side of the images in pixels; the middle 178 x 178 are scaled to it.
        download: fetch missing files from Google Drive; needs the package gdown.
        flip, limit, mean, std: see ``LabelledImages``.
    """

    class_names: Sequence[str] = ()

    def __init__(
        self,
        root: str = "data",
        attribute: str | None = None,
        size: int = 64,
        download: bool = False,
        flip: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(size=size, flip=flip, **kwargs)
        self.folder, self.attribute, self.download = Path(root) / "celeba", attribute, download
        self.size: int = size
        self.image_shape = 3, size, size
        self.class_names = () if attribute is None else (f"not {attribute}", attribute)

    def prepare_data(self) -> None:
        """Download the images and lists if ``download`` is set and the images are missing.

        Raises:
            DataError: the download fails.
        """
        if not self.download or (self.folder / "img_align_celeba").is_dir():
            return
        try:
            datasets.CelebA(self.folder.parent, download=True)
        except Exception as error:  # gdown raises its own, requests' and RuntimeError
            raise DataError(
                f"CelebA cannot be downloaded ({' '.join(str(error).split())}); Google Drive limits downloads per day: "
                "install gdown (pip install gdown) and try again later, or get img_align_celeba.zip, "
                "list_eval_partition.txt and list_attr_celeba.txt with a browser from "
                f"{ADDRESS}, and unpack them in {self.folder}"
            ) from error

    def read_lines(self, name: str) -> list[tuple[int, list[str]]]:
        """Read the number and the words of every line of a list; empty lines are skipped.

        Raises:
            DataError: the list is missing.
        """
        path = self.folder / name
        if not path.is_file():
            raise DataError(
                f"{path} does not exist; data.root must hold celeba with {name} and the folder img_align_celeba, from "
                f"{ADDRESS} (with a browser), or fetched by --data.download true (needs gdown)"
            )
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]

    def line_error(self, name: str, number: int, wanted: str) -> DataError:
        """Return the error for a damaged line of a list."""
        return DataError(
            f"{self.folder / name}, line {number}: must be {wanted}; download the list again from {ADDRESS}"
        )

    def read_names(self, split: LabelledSplit) -> list[str]:
        """Read the names of the files of a split."""
        lines = self.read_lines(SPLITS)
        for number, words in lines or [(1, [])]:
            if len(words) != 2 or words[1] not in PARTITION.values():
                raise self.line_error(SPLITS, number, "a file's name and 0 (train), 1 (val) or 2 (test)")
        return [name for _, (name, number) in lines if number == PARTITION[split]]

    def read_labels(self) -> dict[str, int]:
        """Read the class of each face, 1 with the attribute and 0 without, by the name of its file."""
        lines = self.read_lines(ATTRIBUTES)
        if len(lines) < 2 or len(lines[0][1]) != 1:
            raise self.line_error(ATTRIBUTES, 1, "the number of images, and line 2 the names of the attributes")
        _, (_, names), *rows = lines
        if self.attribute not in names:
            raise UsageError(f"data.attribute must be one of {', '.join(names)}, got {self.attribute}")
        column = names.index(self.attribute) + 1
        for number, row in rows:
            if len(row) != len(names) + 1 or row[column] not in ("1", "-1"):
                raise self.line_error(ATTRIBUTES, number, f"a file's name and {len(names)} times 1 or -1")
        return {row[0]: int(row[column] == "1") for _, row in rows}

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``FileImages`` of a split, with labels if ``attribute`` is set; prediction uses the test split.

        Raises:
            DataError: a file is missing or damaged.
        """
        split = "test" if split == "predict" else split
        names, faces = self.read_names(split), self.folder / "img_align_celeba"
        names = limit_items(names, self.limit, self.seed) if split == "train" else names
        if not faces.is_dir():
            raise DataError(f"folder {faces} does not exist; unpack img_align_celeba.zip of {ADDRESS} there")
        labels = None
        if self.attribute is not None:
            known = self.read_labels()
            missing = next((name for name in names if name not in known), None)
            if missing is not None:
                raise DataError(
                    f"{self.folder / ATTRIBUTES} has no line for {missing}, which {SPLITS} lists; download both again from "
                    f"{ADDRESS}"
                )
            labels = [known[name] for name in names]
        paths = [faces / name for name in names]
        return FileImages(paths, labels, self.size, self.image_reader(paths, split))
