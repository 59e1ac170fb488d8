"""Damaged data files: an error that names the file, or valid samples."""

import json
import pickle
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.captions.caption_folder import CaptionFolder
from darkroom.datamodules.captions.coco_captions import CocoCaptions
from darkroom.datamodules.captions.shards.web_shards import ShardedCaptions
from darkroom.datamodules.detection.coco_detection import CocoDetection
from darkroom.datamodules.detection.instance_folder import InstanceFolder
from darkroom.datamodules.detection.penn_fudan import PennFudan
from darkroom.datamodules.detection.voc_detection import VOCDetection
from darkroom.datamodules.detection.voc_folder import VOCFolder
from darkroom.datamodules.detection.yolo_folder import YoloFolder
from darkroom.datamodules.images.celeba import CelebA
from darkroom.datamodules.images.cifar10 import CIFAR10
from darkroom.datamodules.images.image_folder import ImageFolder
from darkroom.datamodules.images.mnist import MNIST
from darkroom.datamodules.segmentation.camvid import CamVid
from darkroom.datamodules.segmentation.chair_segments import ChairSegments
from darkroom.datamodules.segmentation.cityscapes import Cityscapes
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.datamodules.segmentation.oxford_pets import OxfordPets
from darkroom.datamodules.segmentation.voc_segmentation import VOCSegmentation
from darkroom.errors import DataError, UsageError
from darkroom.lightning_modules.detection.base import check_batch
from tests.fakes import boxes, captions, labelled, pictures
from tests.fuzz.strategies import corrupted, examples


class Kind(NamedTuple):
    """Dataset: writer of a fake, datamodule and its options."""

    write: Callable[[Path], Path]
    data: type[VisionDataModule]
    options: dict[str, Any]


_PARTS = {"val_fraction": 0.2, "test_fraction": 0.2}
SETS = {
    "camvid": Kind(pictures.camvid, CamVid, {"crop": 32}),
    "chair_segments": Kind(pictures.chair_segments, ChairSegments, {"crop": 32}),
    "cityscapes": Kind(pictures.cityscapes, Cityscapes, {"crop": 32}),
    "oxford_pets": Kind(pictures.oxford_pets, OxfordPets, {"crop": 32}),
    "voc_segmentation": Kind(pictures.voc2012_sbd, VOCSegmentation, {"crop": 32, "sbd_root": "."}),
    "image_mask_folder": Kind(pictures.image_mask_folder, ImageMaskFolder, {"crop": 32, **_PARTS}),
    "voc_detection": Kind(boxes.voc_detection, VOCDetection, {}),
    "coco_detection": Kind(boxes.coco_detection, CocoDetection, {"masks": True}),
    "voc_folder": Kind(boxes.voc_folder, VOCFolder, _PARTS),
    "yolo_folder": Kind(boxes.yolo_folder, YoloFolder, {}),
    "penn_fudan": Kind(boxes.penn_fudan, PennFudan, {"masks": True}),
    "instance_folder": Kind(boxes.instance_folder, InstanceFolder, {"masks": True, **_PARTS}),
    "mnist": Kind(labelled.mnist, MNIST, {}),
    "cifar10": Kind(labelled.cifar10, CIFAR10, {}),
    "celeba": Kind(labelled.celeba, CelebA, {"attribute": "Smiling"}),
    "image_folder": Kind(labelled.image_folder, ImageFolder, {"size": 16, **_PARTS}),
    "caption_folder": Kind(captions.caption_folder, CaptionFolder, {"size": 16, **_PARTS}),
    "coco_captions": Kind(captions.coco_captions, CocoCaptions, {"size": 16}),
    "web_shards": Kind(captions.web_shards, ShardedCaptions, {"size": 16}),
}
TEXTUAL = (".txt", ".json", ".xml", ".tsv", ".yaml")


def _check(batch: dict[str, Any], data: VisionDataModule) -> None:
    """Assert that a batch is valid for training."""
    for image in batch["image"]:
        assert image.is_floating_point()
        assert image.shape[0] == data.image_shape[0]
        assert image.isfinite().all()
    if "mask" in batch:
        assert batch["mask"].shape == (len(batch["image"]), *batch["image"].shape[-2:])
        assert ((batch["mask"] < data.num_classes) | (batch["mask"] == 255)).all()
    if "target" in batch:
        check_batch(batch, data.num_classes)
    if "label" in batch:
        assert batch["label"].dtype == torch.int64
        assert ((batch["label"] >= 0) & (batch["label"] < data.num_classes)).all()
    if "caption" in batch:
        assert all(isinstance(caption, str) and caption.strip() for caption in batch["caption"])


def read(name: str, root: Path) -> None:
    """Read all batches of training, validation and test."""
    kind = SETS[name]
    data = kind.data(root=str(root), batch_size=2, eval_batch_size=1, num_workers=0, **kind.options)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            _check(data.on_after_batch_transfer(batch), data)


def _indexed_shards(root: Path) -> Path:
    """Write shards with an index of their sizes."""
    captions.web_shards(root)
    sizes = dict(zip(sorted(path.name for path in root.glob("*.tar")), (7, 9, 8, 10, 3, 2), strict=True))
    (root / "shards.json").write_text(json.dumps(sizes))
    return root


SETS["indexed_shards"] = Kind(_indexed_shards, ShardedCaptions, {"size": 16})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function for the folder of a fake, which is written once; tests restore what they damage."""
    return cache(lambda name: SETS[name].write(tmp_path_factory.mktemp(name)))


@pytest.mark.parametrize("name", SETS)
@examples(12)
@given(seed=st.integers(0, 2**32))
def test_damaged_file_is_named_or_read_correctly(written: Callable[[str], Path], name: str, seed: int) -> None:
    root, random = written(name), Random(seed)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lists = [path for path in files if path.suffix in TEXTUAL]
    path = random.choice(lists if lists and random.random() < 0.5 else files)
    content = path.read_bytes()
    path.write_bytes(corrupted(content, path.suffix in TEXTUAL, random))
    try:
        read(name, root)
    except (DataError, UsageError) as error:
        # or the missing part, if a list lost lines or a table a column
        assert any(word in str(error) for word in (path.stem, "split of", "data.attribute"))  # noqa: PT017
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", SETS)
def test_missing_file_is_named(written: Callable[[str], Path], name: str) -> None:
    root = written(name)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        path.unlink()
        try:
            read(name, root)
        except (DataError, UsageError) as error:
            assert path.stem in str(error) or str(path.parent) in str(error), path  # noqa: PT017
        finally:
            path.write_bytes(content)


# Damage that once caused a traceback, a wrong class or minutes of waiting.
FOUND = {
    "a list of bytes": ("oxford_pets", "annotations/trainval.txt", b"Abyssinian_0", b"\xfa", "is not text"),
    "another list of bytes": (
        "voc_detection",
        "VOCdevkit/VOC2007/ImageSets/Main/train.txt",
        b"2007",
        b"\xfa",
        "is not text",
    ),
    "a class of digits beyond 9": (
        "mnist",
        "MNIST/raw/t10k-labels-idx1-ubyte",
        b"\x02\x03",
        b"\x02\x80",
        "28 x 28 and 128",
    ),
    "a class far beyond all": (
        "yolo_folder",
        "labels/train/000.txt",
        b" 0.",
        b"e30 0.",
        "class must be a whole number",
    ),
    "a polygon that reaches the moon": (
        *("coco_detection", "annotations/instances_train2017.json", b'"segmentation": [[0', b'"segmentation": [[9e15'),
        "far outside of an image",
    ),
    "a picture of a square kilometre": (
        *("coco_detection", "annotations/instances_train2017.json", b'"height": 48', b'"height": 9000000'),
        "width and height must be from 1 to 65535",
    ),
}


@pytest.mark.parametrize("damage", FOUND)
def test_known_damage_is_reported(written: Callable[[str], Path], damage: str) -> None:
    name, file, old, new, said = FOUND[damage]
    root = written(name)
    path, content = root / file, (root / file).read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    try:
        with pytest.raises(DataError, match=re.escape(said)):
            read(name, root)
    finally:
        path.write_bytes(content)


def test_label_beyond_cifar_classes_raises(tmp_path: Path) -> None:
    path = labelled.cifar10(tmp_path) / "cifar-10-batches-py/test_batch"
    batch = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(batch | {"labels": [200] * len(batch["labels"])}, protocol=2))
    with pytest.raises(DataError, match="test_batch"):
        read("cifar10", tmp_path)
