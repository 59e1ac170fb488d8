"""CocoCaptions: layout of COCO."""

import json
from pathlib import Path
from typing import Any

import pytest

from darkroom.datamodules.captions.coco_captions import CocoCaptions
from darkroom.errors import DataError
from tests.contracts.captions import CaptionedDataContract
from tests.fakes.captions import caption_of, coco_captions


class TestCoco(CaptionedDataContract):
    val_is_test = True

    def build(self, tmp_path: Path, **kwargs: Any) -> CocoCaptions:
        return CocoCaptions(root=str(coco_captions(tmp_path)), size=16, **kwargs)

    def test_images_have_five_captions(self, data: CocoCaptions) -> None:
        assert [len(data.files(split)) for split in ("train", "val", "test")] == [12, 4, 4]
        for path, captions in data.files("train"):
            assert captions == tuple(f"{caption_of(int(path.stem))}, said {number}" for number in range(5))

    def test_limit_reduces_training_images(self, tmp_path: Path) -> None:
        assert len(CocoCaptions(root=str(coco_captions(tmp_path)), limit=5).dataset("train")) == 5


def change(root: Path, key: str, change: Any) -> None:
    path = root / "annotations/captions_train2017.json"
    content = json.loads(path.read_text())
    content[key] = change(content[key])
    path.write_text(json.dumps(content))


def test_missing_or_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"captions_train2014.json does not exist; data.root must hold annotations/"):
        CocoCaptions(root=str(coco_captions(tmp_path / "a")), year=2014).setup("fit")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"captions_train2017.json does not exist; data.root must hold annotations/"):
        CocoCaptions(root=str(tmp_path / "file")).setup("fit")
    change(tmp_path / "a", "annotations", lambda entries: [entry for entry in entries if entry["image_id"] != 3])
    with pytest.raises(DataError, match="captions_train2017.json has no captions of 000000000003.jpg"):
        CocoCaptions(root=str(tmp_path / "a")).setup("fit")
    root = coco_captions(tmp_path / "b")
    (root / "train2017/000000000002.jpg").unlink()
    with pytest.raises(DataError, match="lists 1 images that .*train2017 lacks .000000000002.jpg"):
        CocoCaptions(root=str(root)).setup("fit")
    change(root, "annotations", lambda entries: [{"image_id": 1}])
    with pytest.raises(DataError, match="an image or a caption without 'caption'"):
        CocoCaptions(root=str(root)).setup("fit")
    change(root, "images", lambda entries: None)
    with pytest.raises(DataError, match="is not in the format of COCO's captions"):
        CocoCaptions(root=str(root)).setup("fit")
