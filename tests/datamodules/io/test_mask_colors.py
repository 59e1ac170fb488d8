"""Masks in colours, and the labelmap of CVAT's export "Segmentation mask 1.1"."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from darkroom.datamodules.io.mask_colors import read_labelmap
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.errors import DataError, UsageError

LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\nroad: line:51,221,255::\n"
COLORS = {"background": (0, 0, 0), "cat": (250, 50, 83), "dog": (51, 221, 255)}
CLASSES = np.array([[0, 1, 2, 2]] * 4, np.uint8)


def cvat_export(
    root: Path, labelmap: str = LABELMAP.replace("road: line", "dog"), kind: str = "RGB"
) -> ImageMaskFolder:
    """Write an export of CVAT with images, and return its datamodule."""
    for name in ("JPEGImages", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    (root / "labelmap.txt").write_text(labelmap, encoding="utf-8")
    mask = Image.fromarray(np.array(list(COLORS.values()), np.uint8)[CLASSES])
    if kind == "P":
        mask = Image.fromarray(2 - CLASSES)
        mask.putpalette(np.array(list(COLORS.values())[::-1], np.uint8).tobytes())
    for number in range(3):
        Image.new("RGB", (4, 4)).save(root / f"JPEGImages/{number}.jpg")
        mask.convert(kind).save(root / f"SegmentationClass/{number}.png")
    return folder(root)


def folder(root: Path, **kwargs: Any) -> ImageMaskFolder:
    kwargs = {"mask_colors": "labelmap.txt", "val_fraction": 0, "test_fraction": 0} | kwargs
    return ImageMaskFolder(root=str(root), images_dir="JPEGImages", masks_dir="SegmentationClass", **kwargs)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P"])
def test_export_of_cvat_gives_classes_and_masks(tmp_path: Path, kind: str) -> None:
    data = cvat_export(tmp_path, kind=kind)
    assert data.class_names == ("background", "cat", "dog")
    assert torch.equal(data.dataset("train")[0]["mask"], torch.from_numpy(CLASSES))


def test_mapping_of_the_config_is_used(tmp_path: Path) -> None:
    cvat_export(tmp_path)
    data = folder(tmp_path, mask_colors=COLORS)
    assert data.class_names == tuple(COLORS)
    assert torch.equal(data.dataset("train")[0]["mask"], torch.from_numpy(CLASSES))


def test_class_names_give_order_and_leave_out(tmp_path: Path) -> None:
    cvat_export(tmp_path)
    data = folder(tmp_path, class_names=["dog", "background"])
    assert data.dataset("train")[0]["mask"][0].tolist() == [1, 255, 0, 0]


def test_unknown_colour_is_named_with_its_count(tmp_path: Path) -> None:
    cvat_export(tmp_path)
    path = tmp_path / "SegmentationClass/1.png"
    pixels = np.array(Image.open(path))
    pixels[:3, 0], pixels[3, 0] = (1, 2, 3), (9, 9, 9)
    Image.fromarray(pixels).save(path)
    message = (
        r"1\.png has 3 pixels of the colour \[1, 2, 3\], which data\.mask_colors lacks, and 1 other unknown colours"
    )
    with pytest.raises(DataError, match=message):
        folder(tmp_path).dataset("train")[1]


def test_greys_can_be_classes(tmp_path: Path) -> None:
    cvat_export(tmp_path)
    for path in (tmp_path / "SegmentationClass").iterdir():
        Image.fromarray(CLASSES * 127).save(path)
    data = folder(tmp_path, mask_colors={"a": (0, 0, 0), "b": (127, 127, 127), "c": (254, 254, 254)})
    assert torch.equal(data.dataset("train")[0]["mask"], torch.from_numpy(CLASSES))


def test_name_with_colon_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    with pytest.raises(DataError, match="labelmap.txt, line 4: must be name:r,g,b::"):
        read_labelmap(tmp_path / "labelmap.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat:1,2::\n", "line 1: must be name:r,g,b::"),
        ("cat:::\n", "line 1: must be name:r,g,b::"),
        ("cat:1,2,3::\ncat:4,5,6::\n", "line 2: has the class cat a second time"),
        ("cat:1,2,3::\ndog:1,2,3::\n", r"cat and dog have the colour \[1, 2, 3\]"),
        ("cat:1,2,300::\n", r"cat must be three numbers from 0 to 255, got \[1, 2, 300\]"),
    ],
)
def test_damaged_labelmap_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labelmap.txt").write_text(text)
    with pytest.raises((DataError, UsageError), match=f"labelmap.txt.*{message}"):
        read_labelmap(tmp_path / "labelmap.txt")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"class_names": ["background", "cow"]}, "data.class_names has cow, which data.mask_colors lacks"),
        ({"mask_values": "nonzero", "class_names": ["background", "cat"]}, "data.mask_values must be index"),
        ({"mask_colors": "nowhere.txt"}, r"data.mask_colors: .*nowhere.txt must be a text file"),
        (
            {"mask_colors": {"a": (0, 0, 0), "b": (0, 0, 256)}},
            "data.mask_colors: the colour of b must be three numbers",
        ),
    ],
)
def test_contradicting_options_raise(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    cvat_export(tmp_path)
    with pytest.raises((DataError, UsageError), match=message):
        folder(tmp_path, **wrong)


@pytest.mark.parametrize("colors", ["labelmap.txt", "{background: [0, 0, 0], cat: [250, 50, 83], dog: [51, 221, 255]}"])
def test_colours_train_from_command_line(darkroom: Callable, tmp_path: Path, colors: str) -> None:
    cvat_export(tmp_path / "export")
    outcome = darkroom(
        *("fit", "--model", "UNet", "--model.base_channels", 2, "--data", "ImageMaskFolder", "--data.crop", 16),
        *(
            "--data.root",
            tmp_path / "export",
            "--data.images_dir",
            "JPEGImages",
            "--data.masks_dir",
            "SegmentationClass",
        ),
        *(
            "--data.mask_colors",
            colors,
            "--data.val_fraction",
            0.34,
            "--trainer.max_steps",
            1,
            "--trainer.accelerator",
            "cpu",
        ),
        *("--experiment", "colours"),
    )
    assert outcome.code == 0, outcome.err
    assert yaml.safe_load(Path("runs/colours/0/config.yaml").read_text())["model"]["init_args"]["num_classes"] == 3
