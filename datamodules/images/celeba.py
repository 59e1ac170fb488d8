"""CelebA: 202,599 faces of 178 x 218 pixels, with 40 attributes."""

from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset
from torchvision import datasets

from darkroom.datamodules.images.base import FileImages, LabelledImages
from darkroom.errors import DataError, UsageError

ADDRESS = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
PARTITION = {"train": "0", "val": "1", "test": "2"}
SPLITS, ATTRIBUTES = "list_eval_partition.txt", "list_attr_celeba.txt"


class CelebA(LabelledImages):
    """CelebA (Liu et al. 2015), aligned: 162,770 faces to train, 19,867 to validate and 19,962 to test on.

    ``root`` holds ``celeba/img_align_celeba/*.jpg``, ``celeba/list_eval_partition.txt`` and, for labels,
    ``celeba/list_attr_celeba.txt``, as torchvision lays them out.

    Args:
        root: the folder that holds ``celeba``.
        attribute: one of the 40, such as Smiling; a face that has it is of class 1, another of class 0. None: no labels.
        size: side of the pictures in pixels; the middle 178 x 178 are scaled to it.
        download: fetch what is missing from Google Drive; needs the package gdown.
        flip, limit, mean, std: see ``LabelledImages``.
    """

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
        self.class_names = () if attribute is None else (f"not {attribute}", attribute)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    def prepare_data(self) -> None:
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

    def lines(self, name: str) -> list[tuple[int, list[str]]]:
        """Number and words of every line of a list; empty lines are left out."""
        path = self.folder / name
        if not path.is_file():
            raise DataError(
                f"{path} does not exist; data.root must hold celeba with {name} and the folder img_align_celeba, from "
                f"{ADDRESS} (with a browser), or fetched by --data.download true (needs gdown)"
            )
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]

    def damaged(self, name: str, number: int, wanted: str) -> DataError:
        """What to say of a line of a list."""
        return DataError(
            f"{self.folder / name}, line {number}, is damaged: it should be {wanted}; get the list anew from {ADDRESS}"
        )

    def names(self, split: Literal["train", "val", "test"]) -> list[str]:
        """The files of a split."""
        lines = self.lines(SPLITS)
        for number, words in lines or [(1, [])]:
            if len(words) != 2 or words[1] not in PARTITION.values():
                raise self.damaged(SPLITS, number, "a file's name and 0 (train), 1 (val) or 2 (test)")
        return [name for _, (name, part) in lines if part == PARTITION[split]]

    def labels(self) -> dict[str, int]:
        """Whether a face has the attribute, by the name of its file."""
        lines = self.lines(ATTRIBUTES)
        if len(lines) < 2 or len(lines[0][1]) != 1:
            raise self.damaged(ATTRIBUTES, 1, "the number of pictures, and line 2 the names of the attributes")
        _, (_, names), *rows = lines
        if self.attribute not in names:
            raise UsageError(
                f"data.attribute is {self.attribute}, which CelebA does not have; it has {', '.join(names)}"
            )
        column = names.index(self.attribute) + 1
        for number, row in rows:
            if len(row) != len(names) + 1 or row[column] not in ("1", "-1"):
                raise self.damaged(ATTRIBUTES, number, f"a file's name and {len(names)} times 1 or -1")
        return {row[0]: int(row[column] == "1") for _, row in rows}

    def dataset(self, split: Literal["train", "val", "test", "predict"]) -> Dataset:
        split = "test" if split == "predict" else split
        names, faces = self.names(split), self.folder / "img_align_celeba"
        names = self.limited(names) if split == "train" else names
        if not faces.is_dir():
            raise DataError(f"folder {faces} does not exist; unpack img_align_celeba.zip of {ADDRESS} there")
        labels = None
        if self.attribute is not None:
            known = self.labels()
            missing = next((name for name in names if name not in known), None)
            if missing is not None:
                raise DataError(
                    f"{self.folder / ATTRIBUTES} has no line for {missing}, which {SPLITS} lists; get both anew from "
                    f"{ADDRESS}"
                )
            labels = [known[name] for name in names]
        return FileImages([faces / name for name in names], labels, self.size)
