"""Photos that a camera stored rotated, beside an annotation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.datamodules.detection.coco_detection import CocoDetection
from darkroom.datamodules.io.exif import rotates, warn_of_ambiguous_rotation
from darkroom.datamodules.io.image_files import read_header
from darkroom.datamodules.io.read_images import ImageMaskPairs, ImageReader

SIZE = {1: (40, 60), 3: (40, 60), 6: (60, 40)}  # height and width after rotation, of 40 x 60 stored pixels


def photo(path: Path, orientation: int, height: int = 40, width: int = 60) -> Path:
    """A photo whose upper left quarter of stored pixels is white."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[: height // 2, : width // 2] = 255
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_size_of_annotation_decides(tmp_path: Path, orientation: int) -> None:
    path = photo(tmp_path / "a.png", orientation)
    assert rotates(read_header(path), (60, 40), None)
    assert rotates(read_header(path), (40, 60), None) == (orientation < 5)


def test_option_decides(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 6)
    assert rotates(read_header(path), (40, 60), "transpose")
    assert not rotates(read_header(path), (60, 40), "ignore")


@pytest.mark.parametrize(("orientation", "side"), [(3, 60), (6, 40)])
def test_photo_that_its_size_does_not_explain_is_named_once(tmp_path: Path, orientation: int, side: int) -> None:
    paths = [photo(tmp_path / f"{name}.png", orientation, 40, side) for name in "ab"]
    with pytest.warns(UserWarning, match=f"a.png of the val split has EXIF orientation {orientation}") as caught:
        warn_of_ambiguous_rotation([(path, (40, side)) for path in paths], "val")
    assert len(caught) == 1
    assert "Set data.exif to transpose" in str(caught[0].message)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
@pytest.mark.parametrize("exif", [None, "ignore"])
def test_mask_of_stored_pixels_matches_its_image(tmp_path: Path, exif: str | None, ending: str) -> None:
    image, mask = photo(tmp_path / f"a.{ending}", 6), tmp_path / "m.png"
    values = np.zeros((40, 60), np.uint8)
    values[:20, :30] = 1
    Image.fromarray(values).save(mask)
    sample = ImageMaskPairs([(image, mask)], 2, reader=ImageReader(1), exif=exif)[0]
    assert torch.equal(sample["image"][0] > 127, sample["mask"] == 1)


def coco(folder: Path, orientation: int, ending: str) -> CocoDetection:
    """A square photo, annotated on its stored pixels: the box is its white quarter."""
    folder.mkdir(exist_ok=True)
    photo(folder / f"a.{ending}", orientation, 40, 40)
    content = {
        "images": [{"id": 1, "file_name": f"a.{ending}", "height": 40, "width": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "white"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    same = {
        f"{split}_{kind}": name for split in ("train", "val") for kind, name in (("json", "a.json"), ("images", "."))
    }
    return CocoDetection(root=str(folder), **same)


@pytest.mark.parametrize("ending", ["jpg", "tif"])  # Pillow rotates TIFF while it reads
@pytest.mark.parametrize("orientation", [3, 6])
def test_boxes_and_square_photo_follow_one_rule(tmp_path: Path, orientation: int, ending: str) -> None:
    data = coco(tmp_path / "it", orientation, ending)
    with pytest.warns(UserWarning, match="its size does not tell whether its annotation belongs to the rotated photo"):
        data.dataset("val")
    data.exif = "ignore"
    sample = data.dataset("val")[0]
    x0, y0, x1, y1 = sample["target"]["boxes"][0].int().tolist()
    assert sample["image"][:, y0:y1, x0:x1].float().mean() > 250
