"""VOCSegmentation: lists, ignored values and missing parts of the layout."""

from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import DataError
from datamodules.voc_segmentation import VOCSegmentation
from tests.contracts.datamodule import SegmentationDataContract
from tests.fakes.pictures import voc


class TestVOCSegmentation(SegmentationDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> VOCSegmentation:
        voc(tmp_path / "data")
        names = ["building", "land", "road", "vegetation", "water"]
        return VOCSegmentation(
            root=str(tmp_path / "data"),
            year="2007",
            test_list="test",
            class_names=names,
            ignore_values=(5, 255),
            crop=32,
            **kwargs,
        )

    def test_unlabeled_is_ignored(self, data: VOCSegmentation) -> None:
        mask = data.dataset("val")[0]["mask"]
        assert (mask[:4] == 255).all()
        assert (mask[4:] < 5).all()


def test_defaults_are_voc_s_21_classes() -> None:
    data = VOCSegmentation()
    assert (data.num_classes, data.class_names[0], data.class_names[15]) == (21, "background", "person")


@pytest.mark.parametrize(
    "missing", ["VOCdevkit", "ImageSets/Segmentation/val.txt", "JPEGImages/val_1.jpg", "SegmentationClass/val_2.png"]
)
def test_what_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    if missing != "VOCdevkit":
        voc(tmp_path)
        (tmp_path / "VOCdevkit/VOC2007" / missing).unlink()
    data = VOCSegmentation(root=str(tmp_path), year="2007")
    with pytest.raises(DataError, match=f"{missing}.* does not exist"):
        data.setup("validate")
