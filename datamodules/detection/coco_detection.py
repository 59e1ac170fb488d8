"""CocoDetection: COCO's instances, or any data with boxes in COCO's JSON format."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from darkroom.datamodules.base import LabelledSplit
from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.detection.formats.coco import parse_coco, read_categories, read_coco
from darkroom.errors import UsageError


class CocoDetection(DetectionDataModule):
    """Detection and instance segmentation in COCO's format (Lin et al. 2014): one JSON per split beside its images.

    The JSON of the validation split defines the classes; the others must have the same. Category ids may have gaps, labels
    have none; ``category_ids[label - 1]`` is the id of a label. Crowd regions are loaded, but never trained on. COCO
    publishes no boxes of its test images, so the test split is the validation split unless you give another one. Download:
    https://cocodataset.org. COCO has a box without area, so ``bad_boxes`` must be "drop".

    Args:
        root: folder that the others are relative to.
        train_images, val_images, test_images: folders of images; a test split needs ``test_json`` too.
        train_json, val_json, test_json: files of their instances.
        keep_empty: train on images without objects too; evaluation always includes them.
    """

    def __init__(
        self,
        root: str = "data/coco",
        train_images: str = "train2017",
        train_json: str = "annotations/instances_train2017.json",
        val_images: str = "val2017",
        val_json: str = "annotations/instances_val2017.json",
        test_images: str | None = None,
        test_json: str | None = None,
        keep_empty: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (test_images is None) != (test_json is None):
            raise UsageError("data.test_images and data.test_json must be given together; one is missing")
        self.root, self.keep_empty = Path(root), keep_empty
        val = (val_json, val_images)
        test = val if test_json is None or test_images is None else (test_json, test_images)
        self.files: dict[LabelledSplit, tuple[str, str]] = {
            "train": (train_json, train_images),
            "val": val,
            "test": test,
        }

    @cached_property
    def _categories(self) -> dict[int, str]:
        path = self.root / self.files["val"][0]
        return read_categories(read_coco(path), path)

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Names of the categories in the validation JSON, in the order of ids."""
        return tuple(self._categories.values())

    @property
    def category_ids(self) -> Sequence[int]:
        """Ids of the categories in the JSON, in the order of labels."""
        return tuple(self._categories)

    def annotations(self, split: LabelledSplit) -> list[Annotation]:
        """Parse the JSON of a split; training omits images without objects unless ``keep_empty`` is set."""
        json_path, folder = (self.root / part for part in self.files[split])
        annotations = parse_coco(json_path, folder, self._categories, self.masks)
        if split == "train" and not self.keep_empty:
            annotations = [one for one in annotations if self.select_trained(one).any()]
        return annotations
