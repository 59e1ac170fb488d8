"""ShapesImages: one object per image with exact labels and factors."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from darkroom.datamodules.io.hash_random import uniform
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.datamodules.shapes.scenes import COLOURS, KINDS, SceneGenerator
from darkroom.errors import UsageError
from tests.contracts.datamodule import LabelledDataContract


class TestShapesImages(LabelledDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> ShapesImages:
        return ShapesImages(train_size=8, val_size=4, test_size=4, side=16, **kwargs)


def whole(count: int = 512, **kwargs: Any) -> dict[str, torch.Tensor]:
    return ShapesImages(train_size=count, **kwargs).dataset("train").__getitems__(range(count))


def test_images_are_bit_identical_on_every_machine() -> None:
    content = whole(256)["image"].contiguous().numpy().tobytes()
    assert hashlib.sha256(content).hexdigest() == "2639a692437c8c216da4ac4c01ea760ea12a1342354e7e91bec1d210e518ae72"


def test_uniform_depends_only_on_key() -> None:
    together = uniform((3, np.arange(100)), 1000)
    assert np.array_equal(together[7], uniform((3, 7), 1000)[0])
    assert 0 <= together.min() < together.max() < 1
    assert abs(together.mean() - 0.5) < 4 / np.sqrt(12 * together.size)
    assert len(np.unique(together)) == together.size


@pytest.mark.parametrize(("label", "count"), [("kind", 5), ("colour", 8), ("kind_colour", 40)])
def test_labels_match_factors(label: str, count: int) -> None:
    data, batch = ShapesImages(label=label), whole(label=label)
    assert data.num_classes == count
    assert set(batch["label"].tolist()) == set(range(count))
    for index in range(100):
        kind, colour = (int(factor) for factor in batch["factors"][index, :2])
        name = data.class_names[batch["label"][index]]
        expected = {"kind": KINDS[kind], "colour": list(COLOURS)[colour]}
        assert name == expected.get(label, f"{expected['colour']} {expected['kind']}")


def test_factors_match_pixels() -> None:
    """Check position by centre of mass, radius by area of circles and colour by pixels."""
    batch, factors = whole(side=64), dict(zip(ShapesImages.factor_names, whole(side=64)["factors"].T, strict=True))
    assert tuple(factors) == ("kind", "colour", "x", "y", "radius")
    image = batch["image"].double()
    inside = ((image - image[:, :, :1, :1]).abs().amax(1) > 40).double()
    rounded = (factors["kind"] == KINDS.index("circle")) | (factors["kind"] == KINDS.index("cross"))
    grid = (torch.arange(64) + 0.5).double() / 64
    for name, axis in (("x", 1), ("y", 2)):
        centre = (inside.sum(axis) * grid).sum(1) / inside.sum((1, 2))
        assert ((centre - factors[name]).abs() < 0.02)[rounded].all()
    circles = factors["kind"] == KINDS.index("circle")
    expected = np.pi * (0.9 * 64 * factors["radius"]) ** 2
    assert (inside.sum((1, 2)) / expected - 1)[circles].abs().mean() < 0.1
    palette = torch.tensor(list(COLOURS.values())).double()
    mean = (image * inside[:, None]).sum((2, 3)) / inside.sum((1, 2))[:, None]
    nearest = (mean[:, None] - palette).square().sum(2).argmin(1)
    assert (nearest == factors["colour"]).double().mean() > 0.95


def test_plain_background_is_one_dark_colour() -> None:
    corners = whole()["image"][:, :, 0, 0]
    assert len(corners.unique(dim=0)) == 1
    assert corners.max() < 60
    assert len(whole(background="textured")["image"][:, :, 0, 0].unique(dim=0)) > 100


def test_objects_are_upright_by_default() -> None:
    """Check that upright squares fill their boxes."""
    for upright in (True, False):
        scenes = SceneGenerator(0, 64, (1, 1), plain=True, upright=upright).describe("train", range(256))
        squares = np.flatnonzero(scenes.kind[:, 0] == KINDS.index("square"))
        x0, y0, x1, y1 = scenes.boxes()[0][squares, 0].T
        filled = (scenes.owner[squares] == 1).sum((1, 2)) / ((x1 - x0) * (y1 - y0))
        assert (filled > 0.99).all() == upright


def test_textured_images_match_scene_generator() -> None:
    content = SceneGenerator(0, 32, (1, 1)).describe("val", range(16)).images
    data = ShapesImages(background="textured", upright=False, zoom=1.0)
    assert np.array_equal(data.dataset("val").__getitems__(range(16))["image"].numpy(), content)


def test_images_below_16_pixels_raise() -> None:
    with pytest.raises(UsageError, match="data.side must be at least 16 pixels for shapes, got 8"):
        ShapesImages(side=8)


def test_value_range_covers_all_channels() -> None:
    assert ShapesImages().value_range == (-1.0, 1.0)
    assert ShapesImages(mean=[0.5, 0.2, 0.6], std=[0.5, 0.4, 0.2]).value_range == pytest.approx((-3.0, 2.0))
