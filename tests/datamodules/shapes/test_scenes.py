"""Shapes: bit-identical scenes on every machine, and annotations that match the image."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.datamodules.shapes.scenes import (
    COLOURS,
    FACTORS,
    KINDS,
    SIZES,
    SceneGenerator,
    Scenes,
)
from darkroom.datamodules.shapes.segmentation import SegmentationScenes, ShapesSegmentation
from darkroom.errors import UsageError
from tests.contracts.datamodule import SegmentationDataContract


class TestShapesSegmentation(SegmentationDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ShapesSegmentation:
        return ShapesSegmentation(train_size=8, val_size=4, test_size=4, side=32, **kwargs)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return SceneGenerator().describe("train", range(256))


def test_scenes_are_bit_identical_on_every_machine(scenes: Scenes) -> None:
    content = np.ascontiguousarray(scenes.images).tobytes() + np.ascontiguousarray(scenes.semantic()).tobytes()
    assert hashlib.sha256(content).hexdigest() == "9f1a68550b84841e93175524ab9525d3cb7e33d2634069b2778a364a02b56c5a"


def test_instances_are_optional(scenes: Scenes) -> None:
    batch = SegmentationScenes(SceneGenerator(), "train", 256, instances=True).__getitems__(range(256))
    assert np.array_equal(batch["instances"], scenes.owner)
    assert np.array_equal(batch["mask"], scenes.semantic())
    assert SegmentationScenes(SceneGenerator(), "train", 256)[0].keys() == {"image", "mask"}


def test_scene_does_not_depend_on_batch(scenes: Scenes) -> None:
    alone = SceneGenerator().describe("train", [7])
    assert np.array_equal(alone.images[0], scenes.images[7])
    assert np.array_equal(alone.semantic()[0], scenes.semantic()[7])
    assert alone.caption(0) == scenes.caption(7)


def test_splits_and_seeds_differ() -> None:
    images = {
        SceneGenerator(seed).describe(split, range(64)).images.tobytes()
        for seed in (0, 1)
        for split in ("train", "val", "test")
    }
    assert len(images) == 6


def test_instances_boxes_and_semantic_mask_agree(scenes: Scenes) -> None:
    semantic, (boxes, seen) = scenes.semantic(), scenes.boxes()
    for scene in range(64):
        masks, slots = scenes.instances(scene), np.flatnonzero(seen[scene])
        assert masks.sum(0).max() <= 1  # every pixel belongs to one object
        for mask, slot in zip(masks, slots, strict=True):
            rows, columns = np.nonzero(mask)
            assert boxes[scene, slot].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert (semantic[scene][mask] == scenes.labels()[scene, slot]).all()


def test_objects_are_inside_image_and_visible(scenes: Scenes) -> None:
    for axis in (scenes.x, scenes.y):
        assert (axis - scenes.radius >= -1e-9)[scenes.present].all()
        assert (axis + scenes.radius <= scenes.side + 1e-9)[scenes.present].all()
    assert scenes.present[:, 0].all()
    assert np.array_equal(scenes.boxes()[1], scenes.present)


def test_edges_are_antialiased_and_areas_exact() -> None:
    scenes = SceneGenerator(objects=(1, 1)).describe("train", range(512))
    circles = np.flatnonzero(scenes.kind[:, 0] == KINDS.index("circle"))
    area = (scenes.semantic()[circles] > 0).sum((1, 2))
    expected = np.pi * (0.9 * scenes.radius[circles, 0]) ** 2
    assert np.abs(area / expected - 1).mean() < 0.02


def test_colour_is_independent_of_class() -> None:
    scenes = SceneGenerator().describe("train", range(4000))
    counts = np.zeros((len(KINDS), len(COLOURS)))
    np.add.at(counts, (scenes.kind[scenes.present], scenes.colour[scenes.present]), 1)
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 56  # chi-squared, 28 degrees of freedom, p = .001


def test_occlusion_can_be_disabled() -> None:
    for occlusion in (True, False):
        scenes = SceneGenerator(objects=(4, 5), occlusion=occlusion).describe("train", range(200))
        dx, dy = (axis[:, :, None] - axis[:, None] for axis in (scenes.x, scenes.y))
        both = scenes.present[:, :, None] & scenes.present[:, None] & ~np.eye(5, dtype=bool)
        apart = np.hypot(dx, dy) >= scenes.radius[:, :, None] + scenes.radius[:, None]
        assert apart[both].all() == (not occlusion)


def test_captions_describe_scene() -> None:
    scenes = SceneGenerator(objects=(2, 2), occlusion=False).describe("train", range(100))
    for scene in np.flatnonzero(scenes.present.all(1)):
        caption = scenes.caption(scene)
        for slot in (0, 1):
            assert f"{list(COLOURS)[scenes.colour[scene, slot]]} {KINDS[scenes.kind[scene, slot]]}" in caption
        if " left of " in caption:
            assert scenes.x[scene, 0] < scenes.x[scene, 1]
        if " above " in caption:
            assert scenes.y[scene, 0] < scenes.y[scene, 1]
        assert (SIZES[scenes.size[scene, 0]] in caption) or scenes.size[scene, 0] == 1


def test_factors_have_names(scenes: Scenes) -> None:
    factors = dict(zip(FACTORS, scenes.factors().T, strict=True))
    assert np.array_equal(factors["kind"], scenes.kind[:, 0])
    assert 0 < factors["x"].min() < factors["x"].max() < 1


@pytest.mark.parametrize("wrong", [{"side": 8}, {"objects": (3, 2)}, {"objects": (0, 2)}])
def test_invalid_settings_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ShapesSegmentation(**wrong)
