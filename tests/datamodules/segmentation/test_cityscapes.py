"""Cityscapes: label ids to train ids, pairs of images and masks across cities, and download page."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from darkroom.datamodules.segmentation.cityscapes import Cityscapes
from darkroom.errors import DataError
from tests.contracts.datamodule import SegmentationDataContract
from tests.fakes.pictures import cityscapes


class TestCityscapes(SegmentationDataContract):
    val_is_test = True

    def build(self, tmp_path: Path, **kwargs: Any) -> Cityscapes:
        return Cityscapes(root=str(cityscapes(tmp_path / "data")), crop=32, **kwargs)

    def test_label_ids_are_mapped_to_train_ids(self, data: Cityscapes) -> None:
        row = data.dataset("train")[0]["mask"][0, :34].tolist()  # the fake writes ids 0 to 33 there
        void = [255]
        road_to_fence, pole_to_bus = [0, 1, *void * 2, 2, 3, 4], [5, *void, *range(6, 16)]
        assert row == void * 7 + road_to_fence + void * 3 + pole_to_bus + void * 2 + [16, 17, 18]

    def test_images_and_masks_are_paired_across_cities(self, data: Cityscapes) -> None:
        dataset = data.dataset("train")
        assert [path.parent.name for path in dataset.paths] == ["aachen", "aachen", "ulm", "ulm"]
        for image, mask in zip(dataset.paths, dataset.masks, strict=True):
            assert mask.name == image.name.replace("leftImg8bit", "gtFine_labelIds")


def test_classes_are_in_train_id_order() -> None:
    data = Cityscapes()
    assert (data.num_classes, data.class_names[0], data.class_names[11], data.class_names[18]) == (
        19,
        "road",
        "person",
        "bicycle",
    )


@pytest.mark.parametrize("missing", ["leftImg8bit", "gtFine"])
def test_missing_folder_names_download_page(tmp_path: Path, missing: str) -> None:
    shutil.rmtree(cityscapes(tmp_path) / missing)
    with pytest.raises(DataError, match=f"{missing}/train does not exist.*https://www.cityscapes-dataset.com"):
        Cityscapes(root=str(tmp_path)).setup("fit")


def test_missing_label_ids_are_named(tmp_path: Path) -> None:
    next(cityscapes(tmp_path).glob("gtFine/val/lindau/*")).unlink()
    with pytest.raises(DataError, match="gtFine/val/lindau/.*_gtFine_labelIds.png does not exist"):
        Cityscapes(root=str(tmp_path)).setup("test")
