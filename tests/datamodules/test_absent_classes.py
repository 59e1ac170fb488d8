"""Classes that never occur in the truth are named."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.datamodules.absent_classes import warn_of_absent_objects
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.errors import DataError
from darkroom.lightning_modules.segmentation import UNet
from tests.contracts.module import trainer


def folder(path: Path, *values: int, count: int = 10) -> ImageMaskFolder:
    """Images whose masks have these values, in stripes, for three classes."""
    for name in ("images", "masks"):
        (path / name).mkdir()
    for index in range(count):
        Image.new("RGB", (32, 32)).save(path / f"images/{index}.png")
        mask = np.resize(np.repeat(np.array(values, np.uint8), 32), (32, 32))
        Image.fromarray(mask).save(path / f"masks/{index}.png")
    return ImageMaskFolder(
        root=str(path), class_names=("background", "cat", "dog"), crop=32, num_workers=0, val_fraction=0.3
    )


def test_class_without_a_pixel_is_named_with_the_values(tmp_path: Path) -> None:
    data = folder(tmp_path, 0, 1)
    with pytest.warns(UserWarning, match=r"no pixel of dog \(value 2\) in 6 of 6 masks of the train split") as caught:
        data.setup("fit")
    assert "Values of the masks: [0, 1]; check data.class_names" in str(caught[0].message)


def test_ignore_value_that_hides_a_class_is_named(tmp_path: Path) -> None:
    data = folder(tmp_path, 0, 1, 2)
    data.ignore_values = (2, 255)
    with pytest.warns(UserWarning, match=r"no pixel of dog .*data.ignore_values has \[2\]"):
        data.setup("fit")


def test_complete_classes_are_not_mentioned(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder(tmp_path, 0, 1, 2).setup("fit")


@pytest.mark.filterwarnings("ignore:no pixel of")
def test_metric_names_the_classes_that_a_whole_split_lacks(tmp_path: Path) -> None:
    data = folder(tmp_path, 0, 1)
    with pytest.warns(UserWarning, match="val: the truth has no pixel of dog, so val/mIoU and the other averages"):
        trainer(tmp_path).validate(UNet(num_classes=3, base_channels=2), data, verbose=False)


def test_class_without_objects_is_named() -> None:
    labels = [np.array([1, 1]), np.array([], np.int64), np.array([3])]
    with pytest.warns(UserWarning, match=r"the val split has no object of dog; .*\{'cat': 2, 'bird': 1\}"):
        warn_of_absent_objects(labels, ("cat", "dog", "bird"), "val")


def binary(path: Path, *values: tuple[int, ...], **kwargs: str) -> ImageMaskFolder:
    """Images with two classes, and masks that have these values."""
    data = folder(path, 0, count=len(values))
    for index, present in enumerate(values):
        mask = np.resize(np.repeat(np.array(present, np.uint8), 32), (32, 32))
        Image.fromarray(mask).save(path / f"masks/{index}.png")
    options = {"crop": 32, "num_workers": 0, "val_fraction": 0.2, "test_fraction": 0.2}
    return ImageMaskFolder(root=str(data.folders["train"][0].parent), **options, **kwargs)


def test_black_and_white_masks_get_the_option(tmp_path: Path) -> None:
    data = binary(tmp_path, *[(0, 255)] * 10)
    advice = "if it means foreground, set data.mask_values of ImageMaskFolder to nonzero"
    with pytest.raises(DataError, match=f"train split have the values 0 and 255 alone, such as .*, and .*{advice}"):
        data.setup("fit")


def test_one_mask_with_the_class_makes_255_an_ignored_value(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        binary(tmp_path, *[(0, 255)] * 20, *[(0, 1, 255)] * 20).setup("fit")


def test_masks_with_1_and_masks_with_255_are_named(tmp_path: Path) -> None:
    data = binary(tmp_path, *[(0, 1)] * 5, *[(0, 255)] * 5)
    with pytest.warns(
        UserWarning, match=r"\d\.png has the value 1, .*\d\.png has 255 instead, and no mask of the train"
    ):
        data.setup("fit")


@pytest.mark.parametrize(("values", "mask_values"), [([(0, 1), (0, 1, 255)], "index"), ([(0, 1), (0, 255)], "nonzero")])
def test_255_that_is_clear_is_not_mentioned(tmp_path: Path, values: list[tuple[int, ...]], mask_values: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        binary(tmp_path, *values * 5, mask_values=mask_values).setup("fit")
