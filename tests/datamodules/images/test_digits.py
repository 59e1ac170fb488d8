"""Digits: real images from scikit-learn's package, stratified splits, enlargement."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from darkroom.datamodules.images.digits import Digits
from darkroom.errors import UsageError
from tests.contracts.datamodule import LabelledDataContract


class TestDigits(LabelledDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> Digits:
        return Digits(**kwargs)


def test_splits_hold_every_image_once_and_the_same_fraction_of_each_class() -> None:
    splits = {name: Digits().dataset(name) for name in ("train", "val", "test")}
    labels = load_digits().target
    assert sum(map(len, splits.values())) == len(labels) == 1797
    for name, fraction in {"val": 0.1, "test": 0.2}.items():
        for number in range(10):
            expected = round(fraction * (labels == number).sum())
            assert (splits[name].labels == number).sum() == expected
    assert [len(splits[name]) for name in ("train", "val", "test")] == [1259, 179, 359]


def test_ink_is_scaled_from_16_to_255() -> None:
    digits = load_digits()
    data = Digits()
    image, label = data.dataset("test").images[0, 0], data.dataset("test").labels[0]
    counts = (image.float() * 16 / 255).round().numpy()
    same = (digits.images == counts).all((1, 2))
    assert digits.target[same] == [label]
    assert data.dataset("train").images.max() == 255


def test_splits_depend_on_seed_alone() -> None:
    first, again, other = (Digits(seed=seed).dataset("test").images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_images_are_enlarged_by_whole_numbers() -> None:
    data = Digits(size=32)
    assert data.image_shape == (1, 32, 32)
    large, small = data.dataset("val").images, Digits().dataset("val").images
    assert large.shape == (179, 1, 32, 32)
    assert abs(large.float().mean() - small.float().mean()) < 5
    with pytest.raises(UsageError, match="data.size must be a multiple of 8, the side of the images, got 28"):
        Digits(size=28)


def test_limit_applies_to_training() -> None:
    data = Digits(limit=100)
    assert [len(data.dataset(split)) for split in ("train", "val", "predict")] == [100, 179, 359]


def test_missing_package_raises_and_names_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        UsageError, match=r"Digits needs the package scikit-learn; install it: pip install .*\[digits\]"
    ):
        Digits().dataset("train")
