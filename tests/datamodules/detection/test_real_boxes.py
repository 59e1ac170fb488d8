"""Real detection datasets, if present in $DARKROOM_TEST_DATA (default: darkroom-data in the temporary folder)."""

from collections import Counter

import numpy as np
import pytest

from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.detection.coco_detection import CocoDetection
from darkroom.datamodules.detection.instance_folder import InstanceFolder
from darkroom.datamodules.detection.voc_detection import VOCDetection
from darkroom.datamodules.detection.yolo_folder import YoloFolder
from tests.datamodules.segmentation.test_real_images import ROOT, needs


def boxes(data: DetectionDataModule) -> dict[str, int]:
    splits = {split: data.dataset(split).annotations for split in ("train", "val", "test")}
    return {split: sum(len(annotation.boxes) for annotation in annotations) for split, annotations in splits.items()}


@pytest.mark.data
@needs("bccd")
@pytest.mark.filterwarnings("ignore:dropped 1 of")
def test_bccd_has_known_numbers_of_boxes() -> None:
    data = VOCDetection(root=str(ROOT / "bccd"), class_names=["RBC", "WBC", "Platelets"], bad_boxes="drop")
    assert boxes(data) == {"train": 2804, "val": 1137, "test": 945}  # of 2805, 1138 and 945
    found = [annotation for split in ("train", "val", "test") for annotation in data.annotations(split)]
    assert Counter(label for annotation in found for label in annotation.labels.tolist()) == {1: 4155, 2: 372, 3: 361}
    sample = data.dataset("test")[0]
    assert sample["image"].shape == (3, 480, 640)
    assert (sample["target"]["boxes"][:, 2:] > sample["target"]["boxes"][:, :2]).all()


@pytest.mark.data
@needs("dsb2018")
def test_dsb2018_has_known_numbers_of_boxes() -> None:
    folders = {"images_dir": "train/images", "masks_dir": "train/labels"}
    folders |= {"test_images_dir": "test/images", "test_masks_dir": "test/labels"}
    data = InstanceFolder(root=str(ROOT / "dsb2018"), class_name="nucleus", masks=True, **folders)
    assert boxes(data) == {"train": 10855, "val": 1262, "test": 1069}
    target = data.dataset("test")[0]["target"]
    assert target["masks"].flatten(1).any(1).all()
    assert len(target["masks"]) == len(target["boxes"])


@pytest.mark.data
@needs("coco-open")
def test_coco_json_and_yolo_labels_agree() -> None:
    jsons = {"train_json": "annotations/boxes_train2017.json", "val_json": "annotations/boxes_val2017.json"}
    coco = CocoDetection(root=str(ROOT / "coco-open"), **jsons)
    layout = {"images_dir": "{split}", "labels_dir": "labels_yolo/{split}", "train": "train2017", "val": "val2017"}
    yolo = YoloFolder(root=str(ROOT / "coco-open"), class_names=coco.class_names, test="val2017", **layout)
    assert boxes(coco) == boxes(yolo) == {"train": 181, "val": 173, "test": 173}
    assert (coco.num_classes, coco.category_ids[-1]) == (80, 90)
    for split in ("train", "val"):
        by_name = {annotation.path.name: annotation for annotation in yolo.annotations(split)}
        for one in coco.annotations(split):
            other = by_name[one.path.name]
            distance = np.abs(one.boxes[:, None] - other.boxes).max(-1)
            assert (distance.min(1) < 0.01).all() if len(one.boxes) else not len(other.boxes)
            assert Counter(one.labels.tolist()) == Counter(other.labels.tolist())
