"""ImageMaskFolder: segmentation on your own pictures, an index mask beside each."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset
from torchvision.transforms import v2

from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.io.read_images import IGNORE, ImageMaskPairs, list_images, read_mask
from darkroom.datamodules.transforms.border_map import BorderMap
from darkroom.datamodules.transforms.deconvnet_crops import CROPS, padded_random_crop
from darkroom.errors import DataError, UsageError


def pair_by_name(images: Path, masks: Path, mask_suffix: str = "") -> list[tuple[Path, Path]]:
    """Pairs ``images/NAME.*`` with ``masks/NAME<suffix>.*``; a picture without its partner is an error."""
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
                f"{len(lonely)} of {len(by_name[role])} pictures lack a partner: {by_name[role][lonely[0]]} has no {other} "
                f"{folder / wanted}.*"
            )
    return [(by_name["image"][name], by_name["mask"][name]) for name in sorted(by_name["image"])]


def listed_names(path: Path) -> list[str]:
    """The first word of every line of a list that is not empty.

    Raises:
        DataError: there is no such file, or it is no text.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; it should list a split's pictures, one name a line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}); it should list a split's pictures, one name a line") from error
    return [line.split()[0] for line in lines if line.strip()]


def pair_by_list(names: Path, images: Path, masks: Path, mask_suffix: str = ".png") -> list[tuple[Path, Path]]:
    """Pairs ``images/NAME.jpg`` with ``masks/NAME<mask_suffix>`` for every NAME that begins a line of ``names``."""
    pairs = []
    for name in listed_names(names):
        pair = images / f"{name}.jpg", masks / f"{name}{mask_suffix}"
        for path in pair:
            if not path.is_file():
                raise DataError(f"{path} does not exist, but {names} lists {name}")
        pairs.append(pair)
    return pairs


def seeded_split(pairs: list[tuple[Path, Path]], fractions: dict[str, float], seed: int) -> dict[str, list]:
    """Splits by a hash of (seed, name): the same on every machine, and hardly moved when pictures are added."""
    order = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}/{pair[0].stem}".encode()).digest())
    splits, start = {}, 0
    for split, fraction in fractions.items():
        stop = start + round(fraction * len(order))
        splits[split], start = sorted(order[start:stop]), stop
    splits["train"] = sorted(order[start:])
    return splits


class SegmentationFiles(VisionDataModule):
    """Base of all segmentation data sets of files: crops for training, whole pictures for evaluation.

    Training cuts a ``crop`` x ``crop`` window (beyond the picture the image is padded with its mean colour, the mask with
    255, which is ignored) and flips it left-right. Validation and test see whole pictures, one at a time by default since
    their sizes differ.

    Args:
        class_names: the classes in the order of their values in the masks, background included.
        ignore_values: mask values that are neither right nor wrong.
        crop: side of the training window in pixels.
        channels: 3 for colour, 1 for grey; pictures of the other kind are converted.
        crops: where training looks: "random" windows; "objects" and "windows" are the two stages of DeconvNet, one object
            scaled to the crop and all else background, then windows that overlap an object, scaled, with all classes.
        borders: add ``border`` to every sample, the distance to the two nearest instances (U-Net's loss weighs it), and in
            training make background of pixels where instances touch. With ``mask_values`` nonzero instances are the
            masks' ids, else every connected piece of a class is one. Class 0 must be background.
    """

    mask_values: Literal["index", "nonzero"] = "index"
    read_mask = staticmethod(read_mask)  # a data set whose files are not index masks brings its own

    def __init__(
        self,
        class_names: Sequence[str],
        ignore_values: Sequence[int] = (IGNORE,),
        crop: int = 256,
        channels: Literal[1, 3] = 3,
        eval_batch_size: int = 1,
        crops: Literal["random", "objects", "windows"] = "random",
        borders: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **kwargs)
        if len(class_names) < 2:
            raise UsageError(
                f"data.class_names is {list(class_names)}; it needs two classes or more, background included"
            )
        if crop < 16:
            raise UsageError(f"data.crop is {crop}; it needs at least 16 pixels")
        self.class_names, self.ignore_values = tuple(class_names), tuple(ignore_values)
        self.crop, self.channels, self.crops, self.borders = crop, channels, crops, borders

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.channels, self.crop, self.crop

    def default_augment(self) -> list[v2.Transform]:
        return [v2.RandomHorizontalFlip()]

    def fit_to_batch(self) -> list[v2.Transform]:
        fill = [round(255 * mean) for mean in self.mean]
        if self.crops == "random":
            return [padded_random_crop(self.crop, fill)]
        return [CROPS[self.crops](self.crop, fill, keep_instances=self.borders)]

    def finish(self, split: str) -> list[v2.Transform]:
        return [BorderMap(separate=split == "train")] if self.borders else []

    def pairs(self, split: Literal["train", "val", "test"]) -> list[tuple[Path, Path]]:
        """Files of image and mask of one split."""
        raise UsageError(f"{type(self).__name__} does not say which files the {split} split has")

    def dataset(self, split: str) -> Dataset:
        pairs = self.pairs("test" if split == "predict" else split)
        instances = self.borders or (split == "train" and self.crops != "random")
        return ImageMaskPairs(
            pairs,
            self.num_classes,
            self.mask_values,
            self.ignore_values,
            self.channels,
            self.max_side,
            instances,
            self.read_mask,
        )


class ImageMaskFolder(SegmentationFiles):
    """Your own folders of pictures and masks, paired by file name.

    Validation and test pictures come from their own folders when given, else from a seeded fraction of the training
    folder. All folders are relative to ``root``.

    Args:
        images_dir, masks_dir: pictures (PNG, JPEG, TIFF, BMP, WebP) and their index or palette masks (PNG, TIFF, BMP).
        class_names: the classes in the order of their values in the masks, background included.
        root: folder that the others are relative to.
        val_images_dir, val_masks_dir, test_images_dir, test_masks_dir: splits by folder.
        val_fraction, test_fraction: splits by chance, for those without folders.
        mask_values: "index": a pixel's value is its class; "nonzero": 0 is background, everything else the second class.
        mask_suffix: what a mask's name has beyond its picture's, for example "_mask".
    """

    def __init__(
        self,
        images_dir: str = "images",
        masks_dir: str = "masks",
        class_names: Sequence[str] = ("background", "foreground"),
        root: str = ".",
        val_images_dir: str | None = None,
        val_masks_dir: str | None = None,
        test_images_dir: str | None = None,
        test_masks_dir: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        mask_values: Literal["index", "nonzero"] = "index",
        mask_suffix: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(class_names=class_names, **kwargs)
        if mask_values == "nonzero" and len(self.class_names) != 2:
            raise UsageError(f"data.mask_values nonzero makes two classes, but data.class_names has {self.num_classes}")
        if mask_values == "nonzero" and self.ignore_values != (IGNORE,):
            raise UsageError(
                "data.ignore_values has no meaning with data.mask_values nonzero; use index, or leave it out"
            )
        self.root, self.mask_values, self.mask_suffix = Path(root), mask_values, mask_suffix
        self.folders = {
            "train": (images_dir, masks_dir),
            "val": (val_images_dir, val_masks_dir),
            "test": (test_images_dir, test_masks_dir),
        }
        self.fractions = {"val": val_fraction, "test": test_fraction}
        for split, (images, masks) in self.folders.items():
            if (images is None) != (masks is None):
                raise UsageError(f"data.{split}_images_dir and data.{split}_masks_dir need each other; one is missing")
            if images is not None:
                self.fractions.pop(split, None)
        if sum(self.fractions.values()) >= 1 or min(self.fractions.values(), default=0) < 0:
            raise UsageError(
                f"data.*_fraction {self.fractions} must not be negative and must leave pictures to train on"
            )

    def pairs(self, split: Literal["train", "val", "test"]) -> list[tuple[Path, Path]]:
        by_chance = split == "train" or split in self.fractions
        images, masks = self.folders["train" if by_chance else split]
        pairs = pair_by_name(self.root / images, self.root / masks, self.mask_suffix)
        return seeded_split(pairs, self.fractions, self.seed)[split] if by_chance else pairs
