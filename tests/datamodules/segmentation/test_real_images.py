"""Real segmentation datasets, if present in $DARKROOM_TEST_DATA (default: darkroom-data in the temporary folder)."""

import os
import tempfile
from pathlib import Path

import pytest

from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.datamodules.segmentation.voc_segmentation import VOCSegmentation

ROOT = Path(os.environ.get("DARKROOM_TEST_DATA", Path(tempfile.gettempdir(), "darkroom-data")))


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (ROOT / name).is_dir(), reason=f"{name} is not in {ROOT} ($DARKROOM_TEST_DATA)")


@pytest.mark.data
@needs("dsb2018")
def test_dsb2018_has_known_split_sizes() -> None:
    folders = {"images_dir": "train/images", "masks_dir": "train/labels"}
    folders |= {"test_images_dir": "test/images", "test_masks_dir": "test/labels"}
    data = ImageMaskFolder(root=str(ROOT / "dsb2018"), mask_values="nonzero", **folders)
    sizes = {split: len(data.dataset(split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 388, "val": 43, "test": 28}
    sample = data.dataset("test")[0]
    assert set(sample["mask"].unique().tolist()) == {0, 1}
    assert sample["image"].shape[1:] == sample["mask"].shape


@pytest.mark.data
@needs("dubai-aerial")
def test_dubai_aerial_has_known_split_sizes() -> None:
    names = ["building", "land", "road", "vegetation", "water"]
    data = VOCSegmentation(
        root=str(ROOT / "dubai-aerial"), year="2007", test_list="test", class_names=names, ignore_values=(5, 255)
    )
    assert {split: len(data.dataset(split)) for split in ("train", "val", "test")} == {
        "train": 48,
        "val": 8,
        "test": 16,
    }
    assert set(data.dataset("val")[0]["mask"].unique().tolist()) <= {0, 1, 2, 3, 4, 255}
