"""CocoDetection: COCO's instances, or any data with boxes in COCO's JSON format."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from darkroom.datamodules.base import LABELLED_SPLITS, LabelledSplit
from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.detection.formats.coco import parse_coco, read_categories, read_coco
from darkroom.datamodules.detection.formats.coco_layout import find_unused_categories, suggest_options
from darkroom.datamodules.io.pairing import check_fractions, choose_split
from darkroom.errors import DataError, UsageError


class CocoDetection(DetectionDataModule):
    """Detection and instance segmentation in COCO's format (Lin et al. 2014): one JSON per split beside its images.

    The JSON of the validation split defines the classes; the others must have the same. Category ids may have gaps, labels
    have none; ``category_ids[label - 1]`` is the id of a label. Categories without objects that repeat the name of another
    one, or of a supercategory as Roboflow writes it, are left out. Crowd regions are loaded, but never trained on. COCO
    publishes no boxes of its test images, so the test split is the validation split unless you give another one. Download:
    https://cocodataset.org. COCO has a box without area, so ``bad_boxes`` must be "drop".

    Args:
        root: folder that the others are relative to.
        train_images, val_images, test_images: folders of images; a test split needs ``test_json`` too.
        train_json, val_json, test_json: files of their instances. With ``val_json`` null, validation and test images are
            random fractions of the training images, for those without a file.
        val_fraction, test_fraction: fractions of the random splits.
        keep_empty: train on images without objects too; evaluation always includes them.
    """

    def __init__(
        self,
        root: str = "data/coco",
        train_images: str = "train2017",
        train_json: str = "annotations/instances_train2017.json",
        val_images: str | None = "val2017",
        val_json: str | None = "annotations/instances_val2017.json",
        test_images: str | None = None,
        test_json: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        keep_empty: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (test_images is None) != (test_json is None):
            raise UsageError("data.test_images and data.test_json must be given together; one is missing")
        if val_images is None and val_json is not None:
            raise UsageError("data.val_images must be a folder, or data.val_json must be null too")
        self.root, self.keep_empty = Path(root), keep_empty
        self.files: dict[LabelledSplit, tuple[str, str]] = {"train": (train_json, train_images)}
        if val_json is not None and val_images is not None:
            self.files |= {"val": (val_json, val_images), "test": (val_json, val_images)}
        if test_json is not None and test_images is not None:
            self.files["test"] = test_json, test_images
        fractions: dict[str, float] = {"val": val_fraction, "test": test_fraction}
        self.fractions = {split: fraction for split, fraction in fractions.items() if split not in self.files}
        check_fractions(self.fractions)

    def _json(self, split: LabelledSplit) -> Path:
        """Return the JSON of a split.

        Raises:
            DataError: it does not exist; the message has the options for those that do.
        """
        name = split if split in self.files else "train"
        path = self.root / self.files[name][0]
        if not path.is_file():
            raise DataError(f"{path} does not exist; check data.root and data.{name}_json{suggest_options(self.root)}")
        return path

    @cached_property
    def _categories(self) -> tuple[dict[int, str], set[int]]:
        """Names of the classes by their ids, and the ids of the categories that are left out."""
        path = self._json("val")
        content = read_coco(path)
        names = read_categories(content, path)
        unused = find_unused_categories(content, path, {self._json(split) for split in LABELLED_SPLITS})
        if unused:
            shown = ", ".join(f"{key} ({names[key]})" for key in sorted(unused))
            rank_zero_info(f"{path}: left out the categories {shown}, which have no object and repeat another name")
        return {key: name for key, name in names.items() if key not in unused}, unused

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Names of the categories in the validation JSON, in the order of ids."""
        return tuple(self._categories[0].values())

    def restore_classes(self, names: Sequence[str], category_ids: Sequence[int] | None) -> None:
        """Set the classes of a checkpoint, and the ids of their categories; without ids they count from 1."""
        super().restore_classes(names, category_ids)
        self.category_ids = tuple(category_ids or range(1, len(names) + 1))

    @cached_property
    def category_ids(self) -> Sequence[int]:
        """Ids of the categories in the JSON, in the order of labels."""
        return tuple(self._categories[0])

    def annotations(self, split: LabelledSplit) -> list[Annotation]:
        """Parse the JSON of a split; training omits images without objects unless ``keep_empty`` is set."""
        path = self._json(split)
        folder = self.root / self.files[split if split in self.files else "train"][1]
        categories, unused = self._categories
        annotations = parse_coco(path, folder, categories, self.masks, unused)
        if split == "train" or split in self.fractions:
            pairs = [(one.path, number) for number, one in enumerate(annotations)]
            remedy = f"give the split a JSON of its own (data.{split}_json)"
            chosen = choose_split(pairs, self.fractions, self.seed, split, remedy)
            annotations = [annotations[number] for number in sorted(number for _, number in chosen)]
        if split == "train" and not self.keep_empty:
            annotations = [one for one in annotations if self.select_trained(one).any()]
        return annotations
