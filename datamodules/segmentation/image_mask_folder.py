"""ImageMaskFolder: segmentation of your own images with masks of class ids or colours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.io.mask_colors import ColorMaskReader, Colors, check_colors, read_labelmap
from darkroom.datamodules.io.pairing import check_fractions, choose_split, pair_by_name
from darkroom.datamodules.io.read_images import IGNORE
from darkroom.datamodules.segmentation.base import SegmentationFiles
from darkroom.errors import UsageError


class ImageMaskFolder(SegmentationFiles):
    """Your own folders of images and masks, paired by file name.

    Validation and test images come from their own folders when given, else from a seeded fraction of the training
    folder. All folders are relative to ``root``.

    Args:
        images_dir, masks_dir: images (PNG, JPEG, TIFF, BMP, WebP, GIF) and their masks (PNG, TIFF, BMP, GIF). Folders
            inside them are read too; a mask lies in the same folder as its image.
        class_names: classes in the order of their values in the masks, background included. Default: those of
            ``mask_colors`` in their order, else background and foreground.
        root: folder that the others are relative to.
        val_images_dir, val_masks_dir, test_images_dir, test_masks_dir: splits by folder.
        val_fraction, test_fraction: fractions of the random splits, for those without folders.
        mask_values: "index": a pixel's value is its class; "nonzero": 0 is background, everything else the second class.
        mask_suffix: suffix of a mask's name that its image's name lacks, for example "_mask". With a suffix the masks may
            lie in the folder of the images.
        mask_colors: for masks in colours: the colour [r, g, b] of each class by name, or the path of a ``labelmap.txt`` as
            CVAT exports it. Classes that ``class_names`` leaves out are ignored; other colours are an error.
    """

    def __init__(
        self,
        images_dir: str = "images",
        masks_dir: str = "masks",
        class_names: Sequence[str] | None = None,
        root: str = ".",
        val_images_dir: str | None = None,
        val_masks_dir: str | None = None,
        test_images_dir: str | None = None,
        test_masks_dir: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        mask_values: Literal["index", "nonzero"] = "index",
        mask_suffix: str = "",
        mask_colors: str | dict[str, tuple[int, int, int]] | None = None,
        **kwargs: Any,
    ) -> None:
        colors = read_labelmap(Path(root, mask_colors)) if isinstance(mask_colors, str) else mask_colors
        super().__init__(class_names=class_names or tuple(colors or ("background", "foreground")), **kwargs)
        if colors is not None:
            if mask_values != "index":
                raise UsageError(f"data.mask_values must be index with data.mask_colors, got {mask_values}")
            self.read_mask = self._color_reader(colors)
        if mask_values == "nonzero" and len(self.class_names) != 2:
            raise UsageError(
                f"data.class_names must be 2 classes with data.mask_values nonzero, got {self.num_classes}"
            )
        if mask_values == "nonzero" and self.ignore_values != (IGNORE,):
            raise UsageError(
                "data.ignore_values must be empty with data.mask_values nonzero; use index, or leave it out"
            )
        self.mask_values, self.mask_suffix = mask_values, mask_suffix
        folders: dict[LabelledSplit, tuple[str | None, str | None]] = {
            "train": (images_dir, masks_dir),
            "val": (val_images_dir, val_masks_dir),
            "test": (test_images_dir, test_masks_dir),
        }
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.folders: dict[LabelledSplit, tuple[Path, Path]] = {}
        for split, (images, masks) in folders.items():
            if images is not None and masks is not None:
                self.folders[split] = Path(root, images), Path(root, masks)
                self.fractions.pop(split, None)
            elif images is not None or masks is not None:
                raise UsageError(f"data.{split}_images_dir and data.{split}_masks_dir must be given together")
        check_fractions(self.fractions)

    def _color_reader(self, colors: Colors) -> ColorMaskReader:
        """Return the reader of colour masks; classes that ``class_names`` leaves out are ignored."""
        check_colors(colors, "data.mask_colors")
        if unknown := [name for name in self.class_names if name not in colors]:
            raise UsageError(
                f"data.class_names has {', '.join(unknown)}, which data.mask_colors lacks; it has {', '.join(colors)}"
            )
        if ignored := [name for name in colors if name not in self.class_names]:
            rank_zero_info(f"pixels of {', '.join(ignored)} are ignored, since data.class_names leaves them out")
        ids = {name: index for index, name in enumerate(self.class_names)}
        return ColorMaskReader({color: ids.get(name, IGNORE) for name, color in colors.items()})

    def pairs(self, split: LabelledSplit) -> list[tuple[Path, Path]]:
        """Return the files of image and mask of one split, from its own folders or a random fraction."""
        random = split == "train" or split in self.fractions
        images, masks = self.folders["train" if random else split]
        pairs = pair_by_name(images, masks, self.mask_suffix)
        if not random:
            return pairs
        remedy = f"give it folders of its own, such as data.{'val' if split == 'train' else split}_images_dir"
        return choose_split(pairs, self.fractions, self.seed, split, remedy)
